"""One run as the work of a whole process: its threads, and signals that mean checkpoint and stop."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainer_small.config import RunConfig
from trainer_small.engines.devices import local_slots
from trainer_small.engines.engine import Resources, Task
from trainer_small.engines.local import LocalEngine
from trainer_small.engines.stopping import Stopping
from trainer_small.result import Result
from trainer_small.runs.run import RunBusy, run_one
from trainer_small.runs.run_loop import RunProgress
from trainer_small.runs.stacked import run_stack
from trainer_small.sweeps.sweep_status import SweepStatus, run_status

_WAIT_SECONDS = 1.0


def run_in_process(
    directory: str | Path,
    *,
    threads: int = 1,
    wait: bool = False,
    on_progress: Callable[[RunProgress], None] | None = None,
) -> Result:
    """``run_one`` with this many threads; SIGINT, SIGTERM and SIGUSR2 end it as ``interrupted``, after a checkpoint.

    Args:
        wait: for another process that has the run, or for the run's trunk, instead of failing.

    Raises:
        UserError: as ``run_one``.
    """
    torch.set_num_threads(threads)
    directory = Path(directory)
    task = Task.of(directory, RunConfig.load(directory / "config.yaml"))
    with Stopping() as stopping:
        while True:
            if wait and not stopping and not task.is_ready() and task.give_up() is None:
                time.sleep(_WAIT_SECONDS)
                continue
            try:
                return run_one(directory, on_progress=on_progress, stop=lambda: bool(stopping))
            except RunBusy:
                if not wait or stopping:
                    raise
                time.sleep(_WAIT_SECONDS)


def run_stacked(directories: Sequence[Path], *, threads: int = 1) -> SweepStatus:
    """Train several folders of one shape as one stack (``stacked``), with this many threads and signals as above.

    Raises:
        UserError: as ``run_stack``.
    """
    torch.set_num_threads(threads)
    with Stopping() as stopping:
        run_stack(directories, stop=lambda: bool(stopping))
        return SweepStatus(tuple(run_status(each) for each in directories), interrupted=bool(stopping))


def run_many(directories: Sequence[Path], *, threads: int = 1, at_once: int = 1) -> SweepStatus:
    """Train several folders with the devices of this process, so many at a time, each in a worker of its own.

    Raises:
        UserError: a folder has no config.
    """
    tasks = [Task.of(directory, RunConfig.load(directory / "config.yaml")) for directory in directories]
    resources = Resources(threads=threads)
    slots = local_slots(None, Resources(threads=threads, per_gpu=at_once), on_gpu=True)
    slots = (slots * at_once)[:at_once]
    log = directories[0].parent / f"workers-{os.uname().nodename}-{os.getpid()}.log"
    done = LocalEngine(slots, resources, log).train(tasks, lambda _: None)
    return SweepStatus(tuple(run_status(each) for each in directories), interrupted=not done)
