"""One run as the work of a whole process: its threads, and signals that mean checkpoint and stop."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer_small.engines.stopping import Stopping
from trainer_small.result import Result
from trainer_small.run import RunBusy, run_one
from trainer_small.run_loop import RunProgress

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
        wait: for another process that has the run, instead of failing.

    Raises:
        UserError: as ``run_one``.
    """
    torch.set_num_threads(threads)
    with Stopping() as stopping:
        while True:
            try:
                return run_one(directory, on_progress=on_progress, stop=lambda: bool(stopping))
            except RunBusy:
                if not wait or stopping:
                    raise
                time.sleep(_WAIT_SECONDS)
