"""Runs on this machine: worker processes that take runs from a queue, and are replaced when they die."""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trainer_small.config import RunConfig
from trainer_small.lock import is_locked
from trainer_small.result import is_final, write_failure

_DEATHS = 3
"""A run that loses its worker this often in one sweep is failed: it would take the machine down for ever."""
_POLL_SECONDS = 0.5
_FAREWELL_SECONDS = 120.0


@dataclass(frozen=True)
class RunEvent:
    """Something happened to a run: ``progress`` (step, loss), or it ``ended`` with a status."""

    run_id: str
    status: str
    """running, done, diverged, failed, interrupted, or ``lost`` when its worker died and it will be taken up again."""
    step: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    reason: str | None = None


class LocalEngine:
    """Trains run folders in worker processes.

    Args:
        workers: processes at a time.
        threads: threads of each.
        log: file that takes what the workers print.
        on_event: called in the caller's thread.
    """

    def __init__(self, workers: int, threads: int, log: Path, on_event: Callable[[RunEvent], None]) -> None:
        self._limit, self._threads, self._log, self._on_event = workers, threads, log, on_event
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._stopping = False

    def train(self, directories: Sequence[Path]) -> bool:
        """Train all folders, in the order given; returns False when a signal stopped it before the end.

        A run that another process has is waited for.
        """
        waiting = deque(directories)
        deaths: dict[Path, int] = {}
        with self._log.open("ab") as log, self._signals():
            try:
                while (waiting or any(worker.directory for worker in self._workers)) and not self._stopping:
                    self._hand_out(waiting, log)
                    for worker in self._listen():
                        if worker.directory is not None:
                            self._bury(worker, waiting, deaths)
            finally:
                self._farewell()
        return not self._stopping

    def _hand_out(self, waiting: deque[Path], log: IO[bytes]) -> None:
        for _ in range(len(waiting)):
            idle = next((worker for worker in self._workers if worker.directory is None), None)
            if idle is None and len(self._workers) >= self._limit:
                return
            directory = waiting.popleft()
            if is_final(directory):
                continue
            if is_locked(directory):  # another launcher has it
                waiting.append(directory)
                continue
            if idle is None:
                idle = _Worker(self._threads, log)
                self._workers.append(idle)
                self._selector.register(idle.output, selectors.EVENT_READ, idle)
            if not idle.order(directory):
                waiting.appendleft(directory)  # it has just died; _listen will find out
                return

    def _listen(self) -> list["_Worker"]:
        """Pass on what workers say; returns those that died."""
        dead = []
        for key, _ in self._selector.select(_POLL_SECONDS):
            worker: _Worker = key.data
            lines = worker.read()
            if lines is None:
                self._selector.unregister(worker.output)
                self._workers.remove(worker)
                worker.process.wait()
                dead.append(worker)
                continue
            for line in lines:
                self._heard(worker, json.loads(line))
        return dead

    def _heard(self, worker: "_Worker", message: dict[str, Any]) -> None:
        assert worker.directory is not None
        run_id = worker.directory.name
        if message.pop("event") == "progress":
            del message["steps"]
            self._on_event(RunEvent(run_id, "running", **message))
            return
        worker.directory = None
        if message["status"] != "busy":
            self._on_event(RunEvent(run_id, message["status"], reason=message["reason"]))

    def _bury(self, worker: "_Worker", waiting: deque[Path], deaths: dict[Path, int]) -> None:
        directory = worker.directory
        assert directory is not None
        deaths[directory] = deaths.get(directory, 0) + 1
        cause = worker.cause_of_death()
        if deaths[directory] < _DEATHS:
            waiting.appendleft(directory)
            self._on_event(RunEvent(directory.name, "lost", reason=f"its worker was {cause}"))
            return
        reason = (
            f"its worker was {cause} {_DEATHS} times; see {self._log}, and give the run more memory if it was killed"
        )
        write_failure(directory, RunConfig.load(directory / "config.yaml"), reason)
        self._on_event(RunEvent(directory.name, "failed", reason=reason))

    def stop(self) -> None:
        """Ask the workers to write checkpoints and leave; ``train`` then returns False."""
        self._stopping = True

    def _farewell(self) -> None:
        for worker in self._workers:
            worker.dismiss(self._stopping)
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._workers and time.monotonic() < deadline:
            self._listen()
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
        self._workers.clear()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the sweep in good order; a second one kills the workers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: Any) -> None:
            if self._stopping:
                raise KeyboardInterrupt
            self.stop()

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class _Worker:
    def __init__(self, threads: int, log: IO[bytes]) -> None:
        # The variables reach the libraries that read them only while they load.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer_small.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self._input, self.output = self.process.stdin, self.process.stdout
        self.directory: Path | None = None
        self._rest = b""

    def order(self, directory: Path) -> bool:
        """Give it a run; False when it is dead."""
        try:
            self._input.write(json.dumps({"directory": str(directory)}).encode() + b"\n")
            self._input.flush()
        except OSError:
            return False
        self.directory = directory
        return True

    def read(self) -> list[bytes] | None:
        """Whole lines since the last call; None at its end."""
        data = os.read(self.output.fileno(), 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def cause_of_death(self) -> str:
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def dismiss(self, in_the_middle: bool) -> None:
        if in_the_middle and self.process.poll() is None:
            self.process.terminate()
        with suppress(OSError):
            self._input.close()
