"""The demo end to end with a small sweep: interrupted, carried on, and found done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.commands.demo import ROAD, road
from scaling.plan import TrainingPlan

SMALL = (
    "import scaling.commands.demo as d; d.ROAD = [(t, c.replace('1.6e13', '4e12')) for t, c in d.ROAD]; d.walk({!r})"
)


def _start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SMALL.format(str(out))]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_every_step_is_a_public_command_on_the_given_folder():
    steps = road("some folder")
    assert len(steps) == len(ROAD)
    for _, arguments in steps:
        assert any(argument.startswith("some folder") for argument in arguments)


@pytest.mark.slow
def test_interrupted_the_demo_carries_on_and_a_second_call_finds_it_done(tmp_path):
    out = tmp_path / "demo out"
    first = _start(out)
    deadline = time.monotonic() + 300
    while not list((out / "runs").glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does: to the whole group
    said = first.communicate(timeout=120)[0]
    assert first.returncode != 0
    assert "carries on" in said

    second = _start(out)
    said = second.communicate(timeout=1500)[0]
    assert second.returncode == 0, said[-3000:]
    results = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/result.json")}
    assert len(results) == 23
    law = json.loads((out / "law.json").read_text())
    assert law["n_runs"] == 23
    plan = TrainingPlan.load(out / "plan.yaml")
    config = json.loads((out / "configs" / "hf" / "config.json").read_text())
    assert config["hidden_size"] == plan.model.hidden_size
    assert (out / "configs" / "megatron").is_dir()
    assert (out / "configs" / "torchtitan").is_dir()
    assert "A.X K1" in (out / "report.html").read_text()

    third = _start(out)
    said = third.communicate(timeout=600)[0]
    assert third.returncode == 0, said[-3000:]
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/result.json")} == results
