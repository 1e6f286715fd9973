"""One process a run, on any number of machines, whatever dies.

Two layers, because neither is enough alone. A kernel lock (flock) is let go of the moment its holder dies, but some
shared file systems keep it to one machine (NFS with ``local_lock``, BeeGFS, Lustre with ``localflock``). So the holder
also leaves a claim: a numbered file, made by an atomic link, that it rewrites every few seconds. Another machine takes
the run over only after it has seen the same claim stand still for a while by its own monotonic clock, so clocks that
jump or differ decide nothing, nor do process ids, which are used again. The new claim has the next number; a holder
that was only asleep (a suspended machine) finds it and stops.
"""

import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fits.files import write_text

BEAT_SECONDS = 15.0
STALE_SECONDS = 90.0
_PAUSE_SECONDS = 0.05
_KERNEL_TRIES = 3

_seen: dict[Path, tuple["_Claim", float]] = {}
"""Claims of other machines as this process last read them, and since when (monotonic) they have not changed."""


class Busy(Exception):
    """Another process holds the lock."""


@dataclass(frozen=True)
class _Claim:
    number: int
    kernel: str = ""
    beat: int = 0
    free: bool = False


class Hold:
    """A lock that is held; ``lost`` turns true when another machine took it for dead and went on."""

    def __init__(self, directory: Path, number: int) -> None:
        self._directory, self._number = directory, number
        self._beat = 0
        self._end = threading.Event()
        self.lost = False
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            self._beat += 1
            if _exists(self._directory, self._number + 1):
                self.lost = True
                return
            with suppress(OSError):  # a full disk: the claim looks older than it is, which is the safe side
                self._write()

    def _write(self, *, free: bool = False) -> None:
        write_text(_path(self._directory, self._number), _text(_kernel(), self._beat, free))

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        if not self.lost:
            with suppress(OSError):
                self._write(free=True)  # not removed: its number must never be given again


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[Hold]:
    """Hold the folder's lock; ``wait`` for it when another process has it.

    Raises:
        Busy: another process has it and ``wait`` is false.
    """
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                hold = _take(directory, descriptor)
                break
            except Busy:
                if not wait:
                    raise
                time.sleep(_PAUSE_SECONDS)
        try:
            yield hold
        finally:
            hold.release()
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether some process holds the folder's lock now; one on another machine that died counts until it is stale."""
    claim = _latest(directory)
    if claim is None or claim.free:
        return False
    if claim.kernel != _kernel():
        return not _stale(directory, claim)
    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        free = _kernel_lock(descriptor, fcntl.LOCK_SH)
        return not _stale(directory, claim) if free is None else not free
    finally:
        os.close(descriptor)


def _take(directory: Path, descriptor: int) -> Hold:
    mine = _kernel_lock(descriptor)
    if mine is False:
        raise Busy(str(directory))
    try:
        claim = _latest(directory)
        if claim is not None and not claim.free:
            # The kernel's lock, where there is one, proves that a claimant of this very kernel is dead.
            dead = mine and claim.kernel == _kernel()
            if not dead and not _stale(directory, claim):
                raise Busy(str(directory))
        number = 1 if claim is None else claim.number + 1
        _make_claim(directory, number)
        for old in _numbers(directory):
            if old < number - 1:
                _path(directory, old).unlink(missing_ok=True)
        return Hold(directory, number)
    except BaseException:
        if mine:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        raise


def _kernel_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Whether this process got it; ``None`` where the file system has no such lock."""
    for _ in range(_KERNEL_TRIES):  # whoever only looks holds it for an instant
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS / 10)
        except OSError:
            return None
    return False


def _make_claim(directory: Path, number: int) -> None:
    """A link is made whole or not at all, and by one process only, on NFS too."""
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".claim.")
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(_text(_kernel(), 0, False))
        try:
            os.link(temporary, _path(directory, number))
        except FileExistsError:
            raise Busy(str(directory)) from None
    finally:
        os.unlink(temporary)
    if _exists(directory, number + 1):  # the claim we had read was an old one
        raise Busy(str(directory))


def _stale(directory: Path, claim: _Claim) -> bool:
    """Whether the claim has stood still for long enough while this process looked on."""
    now = time.monotonic()
    before = _seen.get(directory)
    if before is None or before[0] != claim:
        _seen[directory] = (claim, now)
        return False
    return now - before[1] > STALE_SECONDS


def _latest(directory: Path) -> _Claim | None:
    numbers = _numbers(directory)
    if not numbers:
        return None
    number = max(numbers)
    try:
        return _Claim(number, **json.loads(_path(directory, number).read_text()))
    except (OSError, ValueError):
        return _Claim(number)  # of nobody we know: it must stand still before it is taken over


def _numbers(directory: Path) -> list[int]:
    return [int(name[7:]) for name in os.listdir(directory) if name.startswith(".claim-")]


def _exists(directory: Path, number: int) -> bool:
    return _path(directory, number).exists()


def _path(directory: Path, number: int) -> Path:
    return directory / f".claim-{number}"


def _text(kernel: str, beat: int, free: bool) -> str:
    return json.dumps({"kernel": kernel, "beat": beat, "free": free})


@cache
def _kernel() -> str:
    """The running system: the same in all its containers, another one after a reboot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename
