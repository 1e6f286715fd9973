"""The GPU benchmark's every path, on a CPU in sizes of a test: it must run where a GPU is at hand only once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "train.py"


@pytest.mark.slow
def test_every_way_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--steps", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out").read_text())
    ours, theirs = (
        next(row for row in found["shapes"] if row["trainer"] == name) for name in ("ours eager", "HF compiled")
    )
    assert {row["trainer"] for row in found["shapes"]} == {"ours eager", "ours compiled", "HF compiled", "ours graphs"}
    for row in (ours, theirs):
        assert row["tokens_per_second"] > 0 and 0.5 < sum(row["split"].values()) < 2
    assert {row["way"] for row in found["small"]} == {"one, eager", "one, compiled", "stack of 2", "2 processes"}


def test_a_missing_gpu_is_one_sentence() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--part", "small"], capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.stderr.strip().endswith("or with --device cpu --tiny to see that it works.")
    assert "Traceback" not in done.stderr
