"""Checkpoints: hashed as they are written, beside the training where that is on a card, at most a share of its time."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.result import read_result
from trainer_small.runs import run_loop
from trainer_small.runs.checkpoint import CheckpointWriter, keep_checkpoint, load_checkpoint, save_checkpoint
from trainer_small.runs.checkpoint_files import checkpoints, is_intact, step_of
from trainer_small.runs.run import run_one
from trainer_small.runs.run_loop import CHECKPOINT_SHARE, RunLoop

RunFolder = Callable[..., Path]
SameRun = Callable[[Path, Path], None]
CPU = torch.device("cpu")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write their checkpoints beside the training, as they do on a card."""

    def make(directory: Path, *, beside: bool) -> CheckpointWriter:
        assert not beside  # this is a CPU
        return CheckpointWriter(directory, beside=True)

    monkeypatch.setattr(run_loop, "CheckpointWriter", make)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


class _Gate:
    """A way of writing that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, directory: Path, step: int, state: dict[str, Any]) -> Path:
        assert self.open.wait(10)
        return save_checkpoint(directory, step, state)


@pytest.mark.parametrize("size", [0, 1, 100, 3_000_000])
def test_the_name_has_the_hash_of_what_lies_on_the_disk(tmp_path: Path, size: int) -> None:
    state = {"step": 7, "x": torch.arange(size), "parts": [torch.ones(3, 5).T, {"losses": (1.0, None)}]}
    path = save_checkpoint(tmp_path, 7, state)
    assert is_intact(path) and not list(tmp_path.glob(".checkpoint*"))
    loaded = load_checkpoint(tmp_path, CPU)
    assert (
        loaded is not None
        and torch.equal(loaded["x"], state["x"])
        and torch.equal(loaded["parts"][0], torch.ones(5, 3))
    )


def test_a_state_that_is_written_beside_the_training_may_change_meanwhile(tmp_path: Path) -> None:
    writer, gate = CheckpointWriter(tmp_path, beside=True), _Gate()
    weights = torch.zeros(1000)
    state = {"step": 1, "a": weights, "tied": weights, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    writer.write(gate, 1, state)
    weights += 1
    state["optimizer"]["state"][0]["step"] += 1
    assert writer.busy and _threads() and not checkpoints(tmp_path, "checkpoint")
    gate.open.set()
    writer.wait()
    loaded = load_checkpoint(tmp_path, CPU)
    assert loaded is not None and not loaded["a"].any() and loaded["optimizer"]["state"][0]["step"] == 1
    assert loaded["a"].data_ptr() == loaded["tied"].data_ptr()  # once in the file
    assert not writer.busy and not _threads()


def test_one_write_at_a_time_and_its_fault_comes_once(tmp_path: Path) -> None:
    writer, gate = CheckpointWriter(tmp_path, beside=True), _Gate()

    def full(directory: Path, step: int, state: dict[str, Any]) -> Path:
        raise UserError(f"{directory}: step {step} has no space left")

    writer.write(gate, 1, {"step": 1})
    writer.check()  # which does not wait
    timer = threading.Timer(0.1, gate.open.set)
    timer.start()
    writer.write(save_checkpoint, 2, {"step": 2})
    writer.wait()
    assert [step_of(path) for path in checkpoints(tmp_path, "checkpoint")] == [2, 1]
    writer.write(full, 3, {})
    while writer.busy:
        time.sleep(0.001)
    with pytest.raises(UserError, match="step 3 has no space"):
        writer.check()
    writer.check()
    writer.write(full, 4, {})
    with pytest.raises(UserError, match="step 4 has no space"):
        writer.write(save_checkpoint, 5, {})
    writer.write(full, 6, {})
    writer.close()
    timer.join()


def test_without_room_for_a_copy_the_training_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_small.runs.checkpoint.available_memory_bytes", lambda: 7000)
    writer = CheckpointWriter(tmp_path, beside=True)
    writer.write(save_checkpoint, 1, {"x": torch.zeros(1000)})
    assert not writer.busy and checkpoints(tmp_path, "checkpoint")


@pytest.mark.usefixtures("beside")
def test_runs_that_write_beside_their_training_end_with_the_same_bits(
    run_folder: RunFolder, same_run: SameRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"training": {"tokens": 128 * 60}, "checkpoint_seconds": 1e-6, "saved_at": [128 * 10]}
    with monkeypatch.context() as patch:
        patch.setattr(run_loop, "CheckpointWriter", CheckpointWriter)
        run_one(run_folder("plain", **keys))
    count = iter(range(10**9))
    folder = run_folder("beside", **keys)
    assert run_one(folder, stop=lambda: next(count) >= 20).status == "interrupted" and not _threads()
    state = load_checkpoint(folder, CPU)
    assert state is not None and state["step"] == 21  # the one at a stop is waited for
    assert run_one(folder).status == "done" and not _threads()
    same_run(folder.parent / "plain", folder)
    assert all(is_intact(path) for path in folder.glob("*.pt")) and checkpoints(folder, "kept")


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("moment", ["on the way", "at a stop", "at the end"])
def test_a_full_disk_beside_the_training_ends_the_run_in_the_same_sentence(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch, same_run: SameRun, moment: str
) -> None:
    folder = run_folder("full", saved_at=[128 * 10] if moment == "on the way" else [])
    steps = 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def stop() -> bool:
        nonlocal steps
        steps += 1
        while _threads():
            time.sleep(0.001)
        return steps == 10 and moment == "at a stop"

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        with pytest.raises(UserError, match=r"checkpoint of step \d+ cannot be written \(No space left"):
            run_one(folder, stop=stop)
    assert steps == 29 if moment == "at the end" else steps <= 10  # at the step after the write, if not before
    failed = read_result(folder)
    assert failed is not None and failed.status == "failed" and not _threads()
    assert not list(folder.glob("*.pt")) and not list(folder.glob(".checkpoint*"))
    assert run_one(folder).status == "done"
    run_one(run_folder("whole"))
    same_run(folder.parent / "whole", folder)


def test_checkpoints_take_no_more_than_their_share(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: a step takes 1 second, a checkpoint 3."""
    now, saved = 0.0, []

    def save(directory: Path, step: int, state: dict[str, Any]) -> Path:
        nonlocal now
        now += 3
        saved.append(step)
        return directory

    def tick() -> bool:
        nonlocal now
        now += 1
        return False

    monkeypatch.setattr(run_loop, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter))
    monkeypatch.setattr(run_loop, "save_checkpoint", save)
    for together, wait in ((1, 3 / CHECKPOINT_SHARE), (2, 6 / CHECKPOINT_SHARE)):
        now, saved = 0.0, []
        folder = run_folder(f"{together}", training={"tokens": 128 * 150}, checkpoint_seconds=10)
        RunLoop(folder, RunConfig.load(folder / "config.yaml"), None, tick, together).train()
        assert saved[0] == pytest.approx(11, abs=2)
        gaps = [later - earlier for earlier, later in pairwise(saved[:-1])]  # the last is the end
        assert gaps and gaps == pytest.approx([wait] * len(gaps), abs=2)


def test_metrics_wait_for_losses_that_are_still_on_the_device(run_folder: RunFolder, same_run: SameRun) -> None:
    """A card's losses come to the host every 16 steps; lines, order and steps are those of a CPU."""
    keys: dict[str, Any] = {
        "training": {"tokens": 128 * 50},
        "evaluation": {"validation_bytes": 2000, "earlier_points": 2},
        "saved_at": [128 * 21],
    }
    run_one(run_folder("each", **keys))
    folder = run_folder("sixteenth", **keys)
    count = iter(range(10**9))
    for stop in (lambda: next(count) >= 18, None):
        loop = RunLoop(folder, RunConfig.load(folder / "config.yaml"), None, stop)
        loop.training.check_every = 16
        loop.train()
    same_run(folder.parent / "each", folder)


def test_a_kept_state_that_is_there_is_left(tmp_path: Path) -> None:
    first = keep_checkpoint(tmp_path, 3, {"x": 1})
    written = first.stat().st_mtime_ns
    assert keep_checkpoint(tmp_path, 3, {"x": 1}) == first and first.stat().st_mtime_ns == written
