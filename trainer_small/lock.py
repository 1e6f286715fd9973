"""One process a folder: a lock that the system lets go of when its holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock; ``wait`` for it when another process has it.

    Raises:
        Busy: another process has it and ``wait`` is false.
    """
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy(str(directory)) from None
        yield
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether some process holds the folder's lock now."""
    if not (directory / ".lock").exists():
        return False
    try:
        with locked(directory):
            return False
    except Busy:
        return True
