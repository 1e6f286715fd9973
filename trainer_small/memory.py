"""The memory of a process: its peak, also when it does several runs after each other, and how freed memory is kept."""

import ctypes
import os
import resource
from contextlib import suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
"""glibc's names for what ``mallopt`` sets (malloc.h)."""


def reuse_memory(on: bool = True) -> None:
    """Have freed memory kept for the next step (glibc; elsewhere nothing happens).

    By default a buffer of some megabytes goes back to the system when it is freed and each new one is faulted in page
    by page: in the steps of a small model that is up to a third of the time.

    Args:
        on: ``False`` sets what glibc arrives at by itself.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0 if on else 65536)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1 if on else 2**26)
        mallopt(_TOP_PAD, 2**26 if on else 0)
        if not on:
            mallopt(_MMAP_THRESHOLD, 2**25)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since ``reset_peak_memory``."""
    try:
        with open("/proc/self/status") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory() -> None:
    """Forget the peak of earlier runs of this process, where the system allows it (Linux)."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
    except OSError:
        pass
