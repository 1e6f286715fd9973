"""What every engine is told and what it tells: resources of a run, events, and how often a run may take a process
down. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.result import write_failure

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
    """A run folder to train."""

    directory: Path

    @property
    def run_id(self) -> str:
        return self.directory.name


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
        step = _checkpoint_step(directory)
        before, number = self._seen.get(directory, (step, 0))
        number = number + 1 if step == before else 1
        self._seen[directory] = (step, number)
        if number < MOST_DEATHS:
            return RunEvent(directory.name, "lost", reason=f"its process {cause}")
        reason = f"its process {cause} {MOST_DEATHS} times at step {step} or soon after; {advice}"
        write_failure(directory, RunConfig.load(directory / "config.yaml"), reason, step)
        return RunEvent(directory.name, "failed", reason=reason)


def _checkpoint_step(directory: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in directory.glob("checkpoint-*-*.pt")), default=0)
