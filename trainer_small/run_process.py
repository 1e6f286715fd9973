"""One run as the work of a whole process: its threads, and signals that mean checkpoint and stop."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer_small.config import RunConfig
from trainer_small.engines.stopping import Stopping
from trainer_small.lock import is_locked
from trainer_small.result import Result, read_result
from trainer_small.run import RunBusy, run_one
from trainer_small.run_loop import RunProgress
from trainer_small.trunk import TrunkNotReady

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
    with Stopping() as stopping:
        while True:
            try:
                return run_one(directory, on_progress=on_progress, stop=lambda: bool(stopping))
            except (RunBusy, TrunkNotReady):
                if not wait or stopping or _trunk_failed(Path(directory)):
                    raise
                time.sleep(_WAIT_SECONDS)


def _trunk_failed(directory: Path) -> bool:
    trunk = RunConfig.load(directory / "config.yaml").trunk
    if trunk is None:
        return False
    there = directory.parent / trunk.run_id
    result = read_result(there)
    return result is not None and result.status == "failed" and not is_locked(there)
