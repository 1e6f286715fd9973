"""Signals that mean: write checkpoints and leave."""

import signal
import threading
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, a scheduler's end, and Slurm's warning before it."""


class Stopping:
    """True once one of ``SIGNALS`` has come; a second Ctrl-C is a KeyboardInterrupt. Off the main thread, never."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        # A scheduler may send the same warning to a whole group, and again: only a person means it twice.
        if number == signal.SIGINT and self:
            raise KeyboardInterrupt
        self._event.set()
