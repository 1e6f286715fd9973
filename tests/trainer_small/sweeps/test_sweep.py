"""A sweep: its cost beforehand, its runs through workers that die, its state and table from the files alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fits.errors import UserError
from fits.tables.columns import COLUMNS
from fits.tables.runs import read_runs, usable_runs, write_runs
from trainer_small.config import RunConfig
from trainer_small.engines.sweep_run import SweepProgress, lay_out, run_sweep
from trainer_small.result import read_result
from trainer_small.runs.lock import locked
from trainer_small.runs.run import run_one
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import sweep_status, sweep_table

MakeSweep = Callable[..., Path]


def test_the_cost_is_the_exact_counts(sweep_file: MakeSweep) -> None:
    sweep = Sweep.load(sweep_file(2))
    run = sweep.runs[0]
    cost = sweep.cost()
    assert cost.tokens_spent == 2 * 30 * 128
    assert cost.train_flops == cost.train_flops_spent == 2 * 30 * 128 * run.architecture.flops_per_token(32)
    assert cost.runs[0].params_active == run.architecture.params_active


def test_a_sweep_trains_reports_and_is_found_done(sweep_file: MakeSweep, tmp_path: Path) -> None:
    heard: list[SweepProgress] = []
    file, out = sweep_file(3), tmp_path / "runs"
    status = run_sweep(file, out, workers=2, progress=heard.append)
    assert status.complete and status.count() == {"done": 3} and not status.interrupted
    assert heard[-1].finished == 3 and heard[-1].cost_done == pytest.approx(heard[-1].cost)
    frame = sweep_table(out)
    assert list(frame.columns) == [column.name for column in COLUMNS]
    write_runs(frame, tmp_path / "runs.csv")
    usable, left_out = usable_runs(read_runs(tmp_path / "runs.csv", required=("loss", "tokens", "bits_per_byte")))
    assert len(usable) == 3 and left_out == ""
    directory = tmp_path / "again" / "run0"
    RunConfig.load(out / "run0" / "config.yaml").save(directory / "config.yaml")
    (tmp_path / "again" / "tokens").symlink_to(out / "tokens")
    assert run_one(directory).losses == run_one(out / "run0").losses  # a worker's bits are those of a call
    results = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    assert run_sweep(file, out).complete
    assert all(path.stat().st_mtime_ns == written for path, written in results.items())


@pytest.mark.slow
def test_killed_workers_are_replaced(sweep_file: MakeSweep, tmp_path: Path) -> None:
    file, out = sweep_file(2, training={"tokens": 128 * 300}, checkpoint_seconds=0.05), tmp_path / "runs"
    lost: list[str] = []

    def kill_once() -> None:
        while not list(out.glob("*/checkpoint-*.pt")):  # a run is under way, and has something to resume from
            time.sleep(0.01)
        for worker in _children():
            os.kill(worker, signal.SIGKILL)

    def hear(at: SweepProgress) -> None:
        assert at.event is not None
        if at.event.status == "lost":
            lost.append(at.event.run_id)

    killer = threading.Thread(target=kill_once)
    killer.start()
    status = run_sweep(file, out, workers=1, progress=hear)
    killer.join()
    assert lost and status.count() == {"done": 2}
    lay_out(file, tmp_path / "quiet")
    quiet = [run_one(tmp_path / "quiet" / run.run_id).losses for run in status.runs]
    assert [run.loss for run in status.runs] == [losses.loss for losses in quiet if losses]


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == os.getpid() and b"engines.worker" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.slow
def test_ctrl_c_stops_in_good_order_and_the_same_command_carries_on(sweep_file: MakeSweep, tmp_path: Path) -> None:
    file, out = sweep_file(2, training={"tokens": 128 * 300}), tmp_path / "runs"
    command = [
        sys.executable,
        "-c",
        f"from trainer_small.engines.sweep_run import run_sweep; import sys;"
        f"sys.exit(7 * run_sweep({str(file)!r}, {str(out)!r}, workers=1).interrupted)",
    ]
    process = subprocess.Popen(command, start_new_session=True)
    while not list(out.glob("*/metrics.jsonl")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 7
    assert list(out.glob("*/checkpoint-*.pt")) and sweep_status(out).count() == {"queued": 2}
    assert run_sweep(file, out).complete


def test_failures_stay_in_the_run_s_folder_and_are_tried_again(
    scheduler: object, sweep_file: MakeSweep, tmp_path: Path
) -> None:
    file, out = sweep_file(2), tmp_path / "runs"
    blocked = out / "run0" / "metrics.jsonl"
    blocked.mkdir(parents=True)
    status = run_sweep(file, out, workers=1)
    assert status.count() == {"failed": 1, "done": 1}
    failed = read_result(out / "run0")
    assert failed is not None and failed.reason and "metrics.jsonl" in failed.reason
    assert set(sweep_table(out)["status"]) == {"failed", "done"}
    blocked.rmdir()
    assert run_sweep(file, out, workers=1).complete


def test_a_run_that_another_launcher_has_is_waited_for(sweep_file: MakeSweep, tmp_path: Path) -> None:
    file, out = sweep_file(2), tmp_path / "runs"
    (out / "run0").mkdir(parents=True)
    release = threading.Event()

    def hold() -> None:
        with locked(out / "run0"):
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()

    def let_go(at: SweepProgress) -> None:
        if at.finished == 1:
            assert sweep_status(out, ["run0"]).runs[0].status == "running"
            release.set()

    assert run_sweep(file, out, workers=1, progress=let_go).complete
    holder.join()


def test_a_changed_sweep_is_refused(sweep_file: MakeSweep, tmp_path: Path) -> None:
    lay_out(sweep_file(1), tmp_path / "runs")
    with pytest.raises(UserError, match="run 'run0'"):
        lay_out(sweep_file(1, training={"beta1": 0.5}), tmp_path / "runs")


@pytest.mark.parametrize("fault", ["no runs", "twice", "no tokenizer", "unknown key"])
def test_faulty_sweeps_are_one_sentence(sweep_file: MakeSweep, fault: str) -> None:
    data = Sweep.load(sweep_file(2)).model_dump(mode="json")
    if fault == "no runs":
        data["runs"] = []
    elif fault == "twice":
        data["runs"][1]["run_id"] = "run0"
    elif fault == "no tokenizer":
        data["tokenizers"] = {"1024": "x"}
    else:
        data["runs"][0]["architecture"]["hiden_size"] = 3
    with pytest.raises(UserError) as error:
        Sweep.parse(json.loads(json.dumps(data)), "sweep.yaml")
    assert "\n" not in str(error.value)


def test_an_empty_folder_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no runs"):
        sweep_status(tmp_path)
