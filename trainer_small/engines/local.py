"""Runs on this machine: worker processes that take runs from a queue, and are replaced when they die."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.engines.devices import oom_kills
from trainer_small.engines.engine import Deaths, Listener, Resources, RunEvent, Task
from trainer_small.engines.stopping import Stopping
from trainer_small.machine.memory import LARGE_PAGES
from trainer_small.result import is_final
from trainer_small.runs.attempts import Attempt, add_attempt, fitted_to_memory, smaller_micro_batch
from trainer_small.runs.lock import is_locked

_POLL_SECONDS = 0.5
_FAREWELL_SECONDS = 120.0
_MOST_FAILED_STARTS = 20
"""Workers that die before they begin a run, one after another: then it is not the runs."""


class LocalEngine:
    """Trains run folders in worker processes, which load torch once and take one run after another.

    Args:
        slots: one entry a worker: its ``CUDA_VISIBLE_DEVICES``, or ``None`` (see ``devices.local_slots``).
        resources: of one run.
        log: file that takes what the workers print.
    """

    def __init__(self, slots: Sequence[str | None], resources: Resources, log: Path) -> None:
        self._free, self._resources, self._log = list(slots), resources, log
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._deaths, self._failed_starts = Deaths(), 0

    def train(self, tasks: Sequence[Task], listener: Listener) -> bool:
        self._listener = listener
        waiting = deque(tasks)
        with self._log.open("ab") as log, Stopping() as self._stopping:
            try:
                while (waiting or any(worker.task for worker in self._workers)) and not self._stopping:
                    self._hand_out(waiting, log)
                    self._listen(waiting)
            finally:
                self._farewell()
            return not self._stopping

    def _hand_out(self, waiting: deque[Task], log: IO[bytes]) -> None:
        for _ in range(len(waiting)):
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None and not self._free:
                return
            task = waiting.popleft()
            if is_final(task.directory):  # by another launcher
                self._listener(RunEvent(task.run_id, "done"))
                continue
            if event := task.give_up():
                self._listener(event)
                continue
            if is_locked(task.directory) or not task.is_ready():  # another launcher has it, or its trunk must come
                waiting.append(task)
                continue
            if idle is None:
                idle = _Worker(self._free.pop(0), self._resources, log)
                self._workers.append(idle)
                self._selector.register(idle.output, selectors.EVENT_READ, idle)
            if not idle.order(task):
                waiting.appendleft(task)  # it has just died; _listen will find out
                return

    def _listen(self, waiting: deque[Task]) -> None:
        for key, _ in self._selector.select(_POLL_SECONDS):
            worker: _Worker = key.data
            lines = worker.read()
            if lines is None:
                self._bury(worker, waiting)
                continue
            for line in lines:
                self._heard(worker, json.loads(line), waiting)

    def _heard(self, worker: "_Worker", message: dict[str, Any], waiting: deque[Task]) -> None:
        assert worker.task is not None
        task, event = worker.task, message.pop("event")
        if event == "begun":
            worker.begun, self._failed_starts = True, 0
            return
        if event == "progress":
            self._listener(RunEvent(task.run_id, "running", **message))
            return
        worker.task = None
        if message["status"] == "busy":  # another launcher was quicker
            waiting.append(task)
        else:
            self._listener(RunEvent(task.run_id, message["status"], reason=message["reason"]))

    def _bury(self, worker: "_Worker", waiting: deque[Task]) -> None:
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        self._free.insert(0, worker.slot)
        worker.process.wait()
        task = worker.task
        if task is None or self._stopping:
            return
        if not worker.begun:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise UserError(f"workers {worker.cause_of_death()} before they begin; see {self._log}.")
            waiting.appendleft(task)
            return
        if worker.killed_for_memory() and (smaller := _less_memory(task.directory)):
            waiting.appendleft(task)
            reason = f"out of memory; goes on with micro-batches of {smaller} tokens"
            self._listener(RunEvent(task.run_id, "lost", reason=reason))
            return
        event = self._deaths.happened(task.directory, worker.cause_of_death(), f"see {self._log}.")
        if event.status == "lost":
            waiting.appendleft(task)
        self._listener(event)

    def _farewell(self) -> None:
        for worker in self._workers:
            worker.dismiss(bool(self._stopping))
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._workers and time.monotonic() < deadline:
            self._listen(deque())
        for worker in list(self._workers):
            worker.process.kill()
            worker.process.wait()
        self._workers.clear()


def _less_memory(directory: Path) -> int | None:
    """Note that the system killed the run for memory; what the next try takes, None when it cannot take less."""
    config = fitted_to_memory(directory, RunConfig.load(directory / "config.yaml"))
    smaller = smaller_micro_batch(config.training)
    if smaller:
        add_attempt(directory, Attempt(outcome="out of memory", micro_batch_tokens=smaller))
    return smaller


class _Worker:
    def __init__(self, slot: str | None, resources: Resources, log: IO[bytes]) -> None:
        # The variables reach the libraries that read them only while they load.
        threads = str(resources.threads)
        environment = LARGE_PAGES | os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if slot is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot
        self.slot = slot
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer_small.engines.worker", threads, str(resources.gpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self._input, self.output = self.process.stdin, self.process.stdout
        self.task: Task | None = None
        self.begun = False
        self._rest = b""
        self._oom_kills = oom_kills()

    def order(self, task: Task) -> bool:
        """Give it a run; False when it is dead."""
        try:
            self._input.write(json.dumps({"directory": str(task.directory)}).encode() + b"\n")
            self._input.flush()
        except OSError:
            return False
        self.task, self.begun = task, False
        return True

    def read(self) -> list[bytes] | None:
        """Whole lines since the last call; None at its end."""
        data = os.read(self.output.fileno(), 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def killed_for_memory(self) -> bool:
        """Whether the system's own killer of processes has been at work since this one started, and it was hit."""
        return self.process.returncode == -signal.SIGKILL and oom_kills() > self._oom_kills

    def cause_of_death(self) -> str:
        code = self.process.returncode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def dismiss(self, in_the_middle: bool) -> None:
        if in_the_middle and self.process.poll() is None:
            self.process.terminate()
        with suppress(OSError):
            self._input.close()
