"""What goes wrong with runs: divergence, memory, a full disk, two launchers, trunks that fail. The sweep ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fits.tables.runs import usable_runs
from trainer_small.config import RunConfig, RunSpec, Trunk
from trainer_small.engines import local
from trainer_small.engines.sweep_run import SweepProgress, run_sweep
from trainer_small.result import read_result
from trainer_small.runs.attempts import Attempt, add_attempt, fitted_to_memory, read_attempts, smaller_micro_batch
from trainer_small.runs.run import run_one
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import sweep_status, sweep_table

TIMING = ["wall_seconds", "tokens_per_second"]


def test_a_diverged_run_is_recorded_tried_as_often_as_told_and_kept_out_of_fits(
    scheduler: Any, corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]
) -> None:
    runs = (run_spec("good"), run_spec("wild", training={"learning_rate": 1e9}))
    file, out = _save(tmp_path, corpus, runs), tmp_path / "runs"
    status = run_sweep(file, out, retry_diverged=1)
    assert status.count() == {"done": 1, "diverged": 1} and status.complete
    wild = status.runs[1]
    assert wild.reason and "step" in wild.reason and wild.attempts == 1
    assert [attempt.outcome for attempt in read_attempts(out / "wild")] == ["diverged"]
    usable, left_out = usable_runs(sweep_table(out))
    assert list(usable["run_id"]) == ["good"] and left_out == "left out: 1 diverged"
    written = (out / "wild" / "result.json").stat().st_mtime_ns
    assert run_sweep(file, out, retry_diverged=1).complete
    assert (out / "wild" / "result.json").stat().st_mtime_ns == written


def test_a_run_that_does_not_fit_goes_on_with_smaller_micro_batches(run_folder: Callable[..., Path]) -> None:
    # 64 sequences of 32 tokens; the address space leaves room for the model and a part of them.
    recipe = {"tokens": 2048 * 32 * 4, "batch_tokens": 2048 * 32}
    directory = run_folder(training=recipe, evaluation={"validation_bytes": 500})
    code = f"""
import resource
from pathlib import Path
import torch
from trainer_small.runs.run import run_one
torch.set_num_threads(1)
size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 500 * 2**20,) * 2)
run_one({str(directory)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    result, attempts = read_result(directory), read_attempts(directory)
    assert result is not None and result.status == "done"
    assert attempts and all(attempt.outcome == "out of memory" for attempt in attempts)
    sizes = [attempt.micro_batch_tokens for attempt in attempts]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == recipe["batch_tokens"] // 2  # type: ignore[type-var]
    assert sweep_status(directory.parent, [directory.name]).runs[0].attempts == len(attempts)
    assert run_one(directory).losses == result.losses  # the smaller micro-batch is no other run


def test_micro_batches_are_divisors_in_whole_sequences(run_spec: Callable[..., RunSpec]) -> None:
    training = run_spec(training={"batch_tokens": 32 * 12, "tokens": 32 * 120}).training
    sizes = []
    while smaller := smaller_micro_batch(training):
        sizes.append(smaller // 32)
        training = training.model_copy(update={"micro_batch_tokens": smaller})
    assert sizes == [6, 3, 1]


@pytest.mark.slow
def test_a_worker_that_the_system_kills_for_memory_comes_back_smaller(
    sweep_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    monkeypatch.setattr(local, "oom_kills", lambda: kills)
    file, out = sweep_file(1, training={"tokens": 128 * 400}, checkpoint_seconds=60.0), tmp_path / "runs"

    def hear(at: SweepProgress) -> None:
        nonlocal kills
        if at.event is not None and at.event.status == "running" and not kills:
            kills = 1
            pid = int(subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", "engines.worker"]).split()[0])
            os.kill(pid, signal.SIGKILL)

    assert run_sweep(file, out, workers=1, progress=hear).complete and kills == 1
    assert read_attempts(out / "run0") == [Attempt(outcome="out of memory", micro_batch_tokens=64)]
    config = RunConfig.load(out / "run0" / "config.yaml")
    assert fitted_to_memory(out / "run0", config).training.micro_batch_tokens == 64


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system of 400 kB, which root may")
def test_a_full_disk_fails_runs_in_a_sentence_and_the_same_command_mends_it(
    sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, quiet, out = sweep_file(3), tmp_path / "quiet", tmp_path / "small"
    run_sweep(file, quiet, workers=1)
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(out)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        status = run_sweep(file, out, workers=1)
        reasons = [run.reason for run in status.runs if run.status == "failed"]
        assert reasons and all(reason and "\n" not in reason for reason in reasons)
        assert any("space" in str(reason) for reason in reasons)
        subprocess.run(["mount", "-o", "remount,size=50m", str(out)], check=True)
        assert run_sweep(file, out, workers=1).complete
        assert sweep_table(out).drop(columns=TIMING).equals(sweep_table(quiet).drop(columns=TIMING))
    finally:
        subprocess.run(["umount", str(out)], check=True)


@pytest.mark.slow
def test_two_launchers_share_a_sweep_and_no_run_is_trained_twice(
    sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, out = sweep_file(8), tmp_path / "runs"
    call = f"run_sweep({str(file)!r}, {str(out)!r}, workers=1)"
    code = f"from trainer_small.engines.sweep_run import run_sweep; assert {call}.complete"
    launchers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    written: set[tuple[str, int]] = set()
    while any(launcher.poll() is None for launcher in launchers):
        written |= {(path.parent.name, path.stat().st_ino) for path in out.glob("*/result.json")}
        time.sleep(0.01)
    assert [launcher.returncode for launcher in launchers] == [0, 0]
    assert len(written) == 8  # a second training would have written a second file
    for directory in out.glob("run*"):
        steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)


def _trunk_runs(run_spec: Callable[..., RunSpec], **trunk: object) -> tuple[RunSpec, ...]:
    recipe = {"warmup_tokens": 128 * 2, "decay_fraction": 0.2, **trunk}
    long = run_spec("long", training={**recipe, "tokens": 128 * 60}, saved_at=(128 * 16, 128 * 32))
    short, middle = (
        run_spec(name, training={**recipe, "tokens": 128 * steps}, trunk=Trunk(run_id="long", tokens=128 * leave))
        for name, steps, leave in (("short", 20, 16), ("middle", 40, 32))
    )
    return short, middle, long


def test_branches_wait_for_their_trunk_and_cost_their_own_steps(
    scheduler: Any, corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]
) -> None:
    file, out = _save(tmp_path, corpus, _trunk_runs(run_spec)), tmp_path / "runs"
    cost = Sweep.load(file).cost()
    assert cost.tokens == 128 * 120 and cost.tokens_spent == 128 * (60 + 4 + 8)
    heard: list[SweepProgress] = []
    assert run_sweep(file, out, progress=heard.append).complete
    assert heard[-1].cost_done == pytest.approx(heard[-1].cost)
    frame = sweep_table(out).set_index("run_id")
    assert list(frame.loc[["short", "middle", "long"], "tokens_spent"]) == [128 * 4, 128 * 8, 128 * 60]
    assert list(frame.loc[["short", "middle", "long"], "tokens"]) == [128 * 20, 128 * 40, 128 * 60]


def test_a_trunk_that_diverges_or_fails_does_not_hang_the_sweep(
    scheduler: Any, corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]
) -> None:
    file = _save(tmp_path, corpus, _trunk_runs(run_spec, learning_rate=1e9))
    status = run_sweep(file, tmp_path / "wild")
    assert status.count() == {"diverged": 1, "failed": 2}
    assert all("trunk 'long'" in str(run.reason) for run in status.runs if run.status == "failed")
    file, out = _save(tmp_path, corpus, _trunk_runs(run_spec)), tmp_path / "blocked"
    blocked = out / "long" / "metrics.jsonl"
    blocked.mkdir(parents=True)
    status = run_sweep(file, out)
    assert status.count() == {"failed": 3}
    blocked.rmdir()
    assert run_sweep(file, out).complete


def test_attempts_are_read_back(run_folder: Callable[..., Path]) -> None:
    directory = run_folder()
    attempts = [Attempt(outcome="diverged", step=3, reason="why"), Attempt(outcome="out of memory")]
    for attempt in attempts:
        add_attempt(directory, attempt)
    assert read_attempts(directory) == attempts


def _save(tmp_path: Path, corpus: Path, runs: tuple[RunSpec, ...]) -> Path:
    tokenizers = {512: os.path.relpath(corpus / "tokenizer.json", tmp_path)}
    sweep = Sweep(name="tiny", corpus=os.path.relpath(corpus, tmp_path), tokenizers=tokenizers, runs=runs)
    sweep.save(tmp_path / "sweep.yaml")
    return tmp_path / "sweep.yaml"
