"""A worker process of a sweep: loads torch once, then trains the runs it is told to, one after another.

It is spoken to in JSON lines: a run's folder in on standard input, events out on standard output. SIGINT, SIGTERM
or the end of its input (the launcher died) make it write a checkpoint and leave.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fits.errors import UserError
from trainer_small.engines.command import run_command
from trainer_small.engines.engine import Resources
from trainer_small.engines.stopping import SIGNALS
from trainer_small.result import read_result
from trainer_small.runs.attempts import read_attempts


def main(resources: Resources) -> None:
    """Serve until the input ends or a signal arrives."""
    # Libraries may print: keep the real standard output for events alone.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: queue.Queue[str | None] = queue.Queue()
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()
        orders.put(None)

    for number in SIGNALS:
        signal.signal(number, stop)

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line)["directory"])
        stop()

    threading.Thread(target=listen, daemon=True).start()

    def tell(event: str, **content: Any) -> None:
        try:
            events.write(json.dumps({"event": event, **content}) + "\n")
        except BrokenPipeError:
            stop()

    train = _by_torchrun(resources) if resources.gpus > 1 else _here(resources, tell)
    while not stopping.is_set() and (directory := orders.get()) is not None:
        tell("begun")
        try:
            status, reason = train(Path(directory), stopping)
            tell("ended", status=status, reason=reason)
        except UserError as error:
            tell("ended", status="failed", reason=str(error))
        except Exception as error:
            traceback.print_exc()
            tell("ended", status="failed", reason=f"{type(error).__name__}: {error}")


Train = Callable[[Path, threading.Event], tuple[str, str | None]]


def _here(resources: Resources, tell: Callable[..., None]) -> Train:
    """Runs in this very process."""
    import torch

    from trainer_small.runs.run import RunBusy, run_one
    from trainer_small.runs.run_loop import RunProgress
    from trainer_small.runs.trunk import TrunkNotReady

    torch.set_num_threads(resources.threads)

    def progress(at: RunProgress) -> None:
        tell("progress", step=at.step, loss=at.loss, tokens_per_second=at.tokens_per_second)

    def train(directory: Path, stopping: threading.Event) -> tuple[str, str | None]:
        try:
            result = run_one(directory, on_progress=progress, stop=stopping.is_set)
        except (RunBusy, TrunkNotReady):
            return "busy", None
        return result.status, result.reason

    return train


def _by_torchrun(resources: Resources) -> Train:
    """Runs on several devices: a group of processes each."""

    def train(directory: Path, stopping: threading.Event) -> tuple[str, str | None]:
        while True:
            attempts = len(read_attempts(directory))
            group = subprocess.Popen(run_command([directory], resources))
            while group.poll() is None and not stopping.wait(0.2):
                pass
            if group.poll() is None:
                group.terminate()
            code = group.wait()
            result = read_result(directory)
            if result is not None:
                return result.status, result.reason
            if stopping.is_set():
                return "interrupted", None
            if len(read_attempts(directory)) == attempts:
                return "failed", f"torchrun ended with exit code {code}; see the log of the workers"
            # Out of memory, with a smaller micro-batch left to try.

    return train


if __name__ == "__main__":
    main(Resources(threads=int(sys.argv[1]), gpus=int(sys.argv[2])))
