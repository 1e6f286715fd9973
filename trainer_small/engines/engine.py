"""What every engine is told and what it tells: resources of a run, events, and how often a run may take a process
down. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from fits.errors import UserError
from trainer_small.config import RunConfig, RunSpec
from trainer_small.result import is_final, read_result, write_failure
from trainer_small.runs.checkpoint_files import checkpoints, kept_checkpoints, step_of
from trainer_small.runs.lock import is_locked

MOST_DEATHS = 3
"""A run that loses its process this often without getting any further is failed: it would go on for ever."""


@dataclass(frozen=True)
class Resources:
    """What one run gets."""

    threads: int = 1
    gpus: int = 1
    """Devices of one run; 0 keeps it on the CPU, above 1 it is started by torchrun."""
    per_gpu: int = 1
    """Runs that share one device."""

    def __post_init__(self) -> None:
        for key, value, least in (("threads", self.threads, 1), ("gpus", self.gpus, 0), ("per_gpu", self.per_gpu, 1)):
            if value < least:
                raise UserError(f"{key} is {value}; it must be at least {least}.")
        if self.gpus > 1 and self.per_gpu > 1:
            raise UserError(f"a run on {self.gpus} GPUs cannot share them with {self.per_gpu - 1} others; choose one.")


@dataclass(frozen=True)
class RunEvent:
    """Something happened to a run."""

    run_id: str
    status: str
    """running, done, diverged, failed, interrupted, or ``lost`` when its process died and it will be taken up again."""
    step: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    reason: str | None = None


Listener = Callable[[RunEvent], None]


@dataclass(frozen=True)
class Task:
    """A run folder to train; a branch waits for the state that its trunk keeps after ``trunk_step`` steps."""

    directory: Path
    trunk: Path | None = None
    trunk_step: int = 0

    @classmethod
    def of(cls, directory: Path, run: RunSpec) -> Self:
        """The task of a run whose folder this is."""
        return cls(directory, directory.parent / run.trunk.run_id if run.trunk else None, run.first_step)

    @property
    def run_id(self) -> str:
        return self.directory.name

    def is_ready(self) -> bool:
        """Whether it can be begun now. A branch whose trunk has ended without the state is: it will say so."""
        if self.trunk is None or kept_checkpoints(self.trunk, self.trunk_step) or is_final(self.trunk):
            return True
        return any(self.directory.glob("checkpoint-*"))  # it has left its trunk before

    def give_up(self) -> RunEvent | None:
        """Fail a branch whose trunk has failed; nothing happens when it may still come."""
        if self.trunk is None or is_locked(self.trunk):
            return None
        result = read_result(self.trunk)
        if result is None or result.status != "failed":
            return None
        reason = f"its trunk '{self.trunk.name}' failed before the branch could leave; mend that first."
        write_failure(self.directory, RunConfig.load(self.directory / "config.yaml"), reason)
        return RunEvent(self.run_id, "failed", reason=reason)


class Engine(Protocol):
    def train(self, tasks: Sequence[Task], listener: Listener) -> bool:
        """Train all runs, about in the order given; returns False when it was stopped before the end.

        A run that another launcher has is waited for. ``listener`` is called in the caller's thread.
        """
        ...


class Deaths:
    """Counts how often each run lost its process at the same place."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, int]] = {}

    def happened(self, directory: Path, cause: str, advice: str) -> RunEvent:
        """Record one; the run is failed, in its folder too, once there were too many."""
        step = max(map(step_of, checkpoints(directory, "checkpoint")), default=0)
        before, number = self._seen.get(directory, (step, 0))
        number = number + 1 if step == before else 1
        self._seen[directory] = (step, number)
        if number < MOST_DEATHS:
            return RunEvent(directory.name, "lost", reason=f"its process {cause}")
        reason = f"its process {cause} {MOST_DEATHS} times at step {step} or soon after; {advice}"
        write_failure(directory, RunConfig.load(directory / "config.yaml"), reason, step)
        return RunEvent(directory.name, "failed", reason=reason)
