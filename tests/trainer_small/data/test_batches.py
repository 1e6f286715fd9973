"""Reading ahead changes when windows are read, and nothing else. A CPU reads as for a card when it is told to."""

import gc
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fits.errors import UserError
from trainer_small.config import RunSpec
from trainer_small.data.batches import Batches
from trainer_small.data.token_reader import TokenReader
from trainer_small.machine.ranks import Ranks
from trainer_small.runs import stacked
from trainer_small.runs.run import run_one
from trainer_small.steps import training as training_module
from trainer_small.steps.training import Training

CPU = torch.device("cpu")


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("reader")}


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and stacks read ahead, as they do on a card."""
    for module in (training_module, stacked):
        monkeypatch.setattr(module, "Batches", partial(Batches, ahead=2))


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(1, 2)], ids=["alone", "second of two"])
def test_windows_are_those_of_the_plain_path_in_any_order_of_steps(
    tokens: Path, run_spec: Callable[..., RunSpec], ranks: Ranks
) -> None:
    ramp = [{"until_tokens": 64 * 6, "batch_tokens": 64}]
    config: Any = run_spec(training={"batch_ramp": ramp})
    readers = [TokenReader(tokens, 32, seed=0) for _ in range(2)]
    plain, other = (Training(config, reader, CPU, Ranks()) for reader in readers)
    for training in (plain, other):
        training.parallel.ranks = ranks
    ahead = Batches(other.windows, CPU, ahead=2)
    for step in (0, 1, 2, 5, 6, 7, 3, 3, 4, 5, 1000, 1001, 0):  # forwards, over the ramp, back, again, epochs on
        batch = ahead.of(step)
        assert torch.equal(batch, plain.batches.of(step))
        assert len(batch) == (2 if step < 6 else 4) // ranks.size
    ahead.close()
    assert len({training.windows(step).tobytes() for training in (plain, other) for step in range(9)}) == 9


def test_steps_are_read_while_the_one_before_is_trained() -> None:
    read = {step: threading.Event() for step in range(9)}

    def windows(step: int) -> np.ndarray:
        read[step].set()
        return np.full((1, 2), step)

    batches = Batches(windows, CPU, ahead=3)
    assert not _threads()  # nothing begins before it is asked for
    assert batches.of(0).tolist() == [[0, 0]]
    assert all(read[step].wait(10) for step in (1, 2, 3)) and not read[4].is_set()
    assert batches.of(1).tolist() == [[1, 1]] and read[4].wait(10)
    batches.close()
    assert not _threads()


def test_what_reading_raises_comes_at_the_step_that_needs_it() -> None:
    broken = True

    def windows(step: int) -> np.ndarray:
        if step == 2 and broken:
            raise UserError("shard 2 is gone; bring it back.")
        return np.full((1, 2), step)

    batches = Batches(windows, CPU, ahead=2)
    for step in (0, 1):
        assert batches.of(step)[0, 0] == step
    with pytest.raises(UserError, match="shard 2 is gone"):
        batches.of(2)
    broken = False
    assert batches.of(2)[0, 0] == 2
    batches.close()


def test_the_thread_ends_with_what_it_reads_for_and_waits_for_nobody() -> None:
    batches = Batches(lambda step: np.zeros((1, 2)), CPU, ahead=2)
    batches.of(0)
    assert len(_threads()) == 1
    del batches  # never closed, as by a script that trains some steps
    gc.collect()
    deadline = time.monotonic() + 10
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _threads()


@pytest.mark.usefixtures("ahead")
def test_runs_that_read_ahead_stop_go_on_and_end_with_the_same_bits(
    run_folder: Callable[..., Path], same_run: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "Batches", Batches)
        run_one(run_folder("plain"))
    count = iter(range(10**9))
    folder = run_folder("ahead")
    assert run_one(folder, stop=lambda: next(count) >= 11).status == "interrupted" and not _threads()
    assert run_one(folder).status == "done" and not _threads()
    same_run(folder.parent / "plain", folder)
    with pytest.raises(UserError, match="output error"), monkeypatch.context() as patch:
        patch.setattr(Training, "windows", _gone_after(5))
        run_one(run_folder("broken"))
    assert not _threads()
    assert run_one(run_folder("nan", training={"learning_rate": 1e30, "grad_clip": 0})).status == "diverged"
    assert not _threads()


def _gone_after(steps: int) -> Callable[[Training, int], np.ndarray]:
    windows = Training.windows

    def read(training: Training, step: int) -> np.ndarray:
        if step >= steps:
            raise OSError(5, "Input/output error")
        return windows(training, step)

    return read


@pytest.mark.usefixtures("ahead")
def test_a_stack_reads_for_all_its_runs_by_one_thread(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    horizons = {"a": 10, "b": 20, "c": 20}

    def folders(prefix: str) -> list[Path]:
        keys = {name: {"training": {"tokens": steps * 128}} for name, steps in horizons.items()}
        return [run_folder(f"{prefix}{name}", seed=at, **keys[name]) for at, name in enumerate(horizons)]

    seen: list[int] = []
    ahead = stacked.run_stack(folders("ahead-"), stop=lambda: seen.append(len(_threads())) or False)
    assert set(seen) == {1} and not _threads()
    monkeypatch.setattr(stacked, "Batches", Batches)
    plain = stacked.run_stack(folders("plain-"))
    assert [result.losses for result in ahead] == [result.losses for result in plain]
