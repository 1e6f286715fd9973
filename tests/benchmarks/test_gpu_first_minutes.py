"""The first minutes on a GPU, on a CPU in sizes of a test: everything must run where a card is at hand only once."""

import csv
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import first_minutes, record
from tests.places import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "first_minutes.py"


@pytest.mark.slow
def test_every_part_runs_and_the_page_tells_of_it(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert len(list(tmp_path.iterdir())) == 8  # what a borrowed machine gives back
    parts = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert list(sorted(parts)) == ["1_machine", "2_shapes", "3_small", "4_sweep", "5_profile"]
    for content in parts.values():
        assert content["part"]["status"] == "done" and content["left_out"] == [], content
    tests = parts["1_machine"]["facts"]["tests"]
    assert {test["outcome"] for test in tests} == {"passed", "skipped"}
    shapes = parts["2_shapes"]["rows"]
    assert [row["trainer"] for row in shapes] == ["ours compiled", "transformers compiled", "ours eager"]
    assert all(row["tokens_per_second"] > 0 for row in shapes)
    assert all(0.5 < sum(row["split"].values()) < 2 for row in shapes[:2])
    assert {row["way"] for row in parts["3_small"]["rows"]} == {
        "one, compiled",
        "one, eager",
        "stack of 2",
        "2 processes",
    }
    with (tmp_path / "gpu_proxy_runs.csv").open(newline="") as rows:
        runs = list(csv.DictReader(rows))
    assert {run["optimizer"] for run in runs} == {"muon", "adamw"} and {run["status"] for run in runs} == {"done"}
    assert len(parts["4_sweep"]["facts"]["fits"]) == 4
    assert all(row["kernels"] for row in parts["5_profile"]["rows"])
    page = (tmp_path / "page.md").read_text()
    assert page.endswith("## What failed\n\nNothing.\n")


_FAILS = """
from benchmarks.gpu.record import Record, arguments
options = arguments(None)
record = Record(options)
record.attempt("good", lambda: record.row(value=1), limit=9)
record.attempt("bad", lambda: 1 / 0, limit=9)
raise SystemExit("this part | breaks")
"""
_HANGS = """
import signal, time
from benchmarks.gpu.record import Record, arguments
def hang():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    print("hanging", flush=True)
    time.sleep(99)
record = Record(arguments(None))
record.attempt("good", lambda: record.row(value=1), limit=9)
record.attempt("slow", lambda: time.sleep(99), limit=0.2)
record.attempt("endless", hang, limit=9)
"""
_DIES = """
import os
from benchmarks.gpu.record import Record, arguments
record = Record(arguments(None))
record.attempt("good", lambda: record.row(value=1), limit=9)
record.attempt("deadly", lambda: os._exit(7), limit=9)
record.attempt("after it", lambda: record.row(value=2), limit=9)
"""


def test_a_part_that_fails_hangs_or_dies_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for number, (name, text, seconds) in enumerate(
        (("machine", _FAILS, 60), ("shapes", _HANGS, 6), ("small", _DIES, 60)), start=1
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{text}")
        parts.append(first_minutes.Part(number, name, script, seconds))
    monkeypatch.setattr(first_minutes, "PARTS", tuple(parts))
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--device", "cpu", "--tiny", "--parts"]
    codes = [first_minutes.main([*arguments, number]) for number in "123"]
    assert codes == [1, 1, 0]
    failed, hung, died = (json.loads((out / f"{part.title}.json").read_text()) for part in parts)
    assert failed["rows"] == hung["rows"] == [{"value": 1}] and died["rows"] == [{"value": 1}, {"value": 2}]
    assert [each["what"] for each in failed["left_out"]] == ["bad"] and "ZeroDivision" in failed["left_out"][0]["why"]
    assert failed["part"]["status"] == "ended with exit code 1"
    assert failed["part"]["last_lines"][-1] == "this part | breaks"
    assert hung["part"]["status"] == "stopped at its limit of 6 s"
    assert [each["what"] for each in hung["left_out"]] == ["slow", "endless"]
    assert died["part"]["status"] == "done" and [each["what"] for each in died["left_out"]] == ["deadly"]
    page = (out / "page.md").read_text()
    for text in ("this part | breaks", "stopped at its limit of 6 s", "took its process with it", "hanging"):
        assert text in page


def test_a_page_of_a_card_sets_numbers_beside_their_goals(tmp_path: Path) -> None:
    part = {"status": "done", "seconds": 9.0, "limit": 80.0, "tiny": False, "last_lines": []}
    tests = [
        {"test": "tests/gpu/test_a.py::test_b[x]", "outcome": "failed", "seconds": 1.0, "why": "assert 1 | 2"},
        {"test": "tests/gpu/test_a.py::test_b[y]", "outcome": "passed", "seconds": 2.0, "why": ""},
    ]
    facts = {"card": "NVIDIA H200", "gemm_flops": 7.8e14, "tests": tests}
    shape = {"goal": 0.15, "batch_tokens": 4096, "micro_batch_tokens": 1024, "part_seconds": 1.0, "end_seconds": 1.0}
    shape |= {"of_gemm": 0.2, "peak_gib": 3.0, "predicted_gib": 2.9, "split": {"attention": 0.4, "idle": 0.1}}
    rows = [
        shape | {"shape": "s", "trainer": "ours compiled", "mfu": 0.16, "tokens_per_second": 3e6},
        shape | {"shape": "s", "trainer": "transformers compiled", "mfu": 0.1, "tokens_per_second": 1.5e6},
        shape | {"shape": "t", "trainer": "ours compiled", "mfu": 0.14, "tokens_per_second": 2e6},
    ]
    measured = {"data_sheet_flops": 9.89e14, "gemm_flops": 7.8e14, "steps": 3, "warm_up": 2}
    (tmp_path / "1_machine.json").write_text(json.dumps({"part": part, "facts": facts, "rows": []}))
    (tmp_path / "2_shapes.json").write_text(json.dumps({"part": part, "facts": measured, "rows": rows}))
    page = first_minutes.page(tmp_path)
    for line in (
        "# First minutes on NVIDIA H200",
        "| tests marked `gpu` | 1 passed, 1 failed, 0 skipped | none failed |",
        "| shapes at their MFU goal | 1 of 2; best 16% (s) | all |",
        "| against transformers compiled | 2.00 x | 1.5 x |",
        "| `test_a: test_b[x]` | assert 1 / 2 |",
        "| s | 16% | 15% | 20% | 3,000,000 | - | 1,500,000 | **2.00** | 1,024 | 3.0 | 2.9 |",
        "| s | ours compiled | 40% | 10% | 20% |",
        "1 of the tests: see above.",
    ):
        assert line in page.splitlines(), line


def test_what_is_missing_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_minutes.missing() == []
    monkeypatch.setattr(first_minutes, "_BESIDES", ("pydantic-core", "no-such-package"))
    monkeypatch.setitem(first_minutes._MODULES, "zstandard", "no_such_module")
    assert first_minutes.main(["--out", str(tmp_path), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("not installed here: zstandard, no-such-package; ") and "README.md" in said


def test_a_missing_gpu_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out"), "--parts", "9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "--parts has '9'; choose of 1,2,3,4,5.\n"
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run(command[:-2], capture_output=True, text=True)
    assert done.stderr.strip().endswith("or with --device cpu --tiny to see that it works.")
    assert done.returncode == 2 and not (tmp_path / "out").exists()


def test_rows_are_on_disk_at_once_and_a_lost_card_ends_the_process(tmp_path: Path) -> None:
    options = Namespace(out=tmp_path / "part.json", seconds=60.0)
    kept = record.Record(options)
    kept.attempt("one", lambda: kept.row(value=1), limit=9)
    assert record.read(options.out)["rows"] == [{"value": 1}]
    assert record.Record(options).attempt("one", lambda: 1 / 0, limit=9)  # it is done, and not done again
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from argparse import Namespace
from pathlib import Path
from benchmarks.gpu.record import Record
def lose(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
Record(Namespace(out=Path({str(options.out)!r}), seconds=60.0)).attempt("two", lose, limit=9)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 3
    content = record.read(options.out)
    assert content["tried"] == ["one", "two"] and "illegal memory" in content["left_out"][0]["why"]
    options.seconds = 1.0
    late = record.Record(options)
    assert not late.attempt("three", lambda: late.row(value=3), limit=9)
    assert late.content["left_out"][-1]["why"] == "no time was left"
