"""One run as the work of a whole process: its threads, and signals that mean checkpoint and stop."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer_small.result import Result
from trainer_small.run import run_one
from trainer_small.run_loop import RunProgress


def run_in_process(
    directory: str | Path, *, threads: int = 1, on_progress: Callable[[RunProgress], None] | None = None
) -> Result:
    """``run_one`` with this many threads; SIGINT and SIGTERM end it as ``interrupted``, after a checkpoint.

    Raises:
        UserError: as ``run_one``.
    """
    torch.set_num_threads(threads)
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return run_one(directory, on_progress=on_progress, stop=stopping.is_set)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
