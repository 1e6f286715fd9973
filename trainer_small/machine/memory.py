"""The memory of a process: how it gets it, and its peak, also when it does several runs after each other."""

import ctypes
import os
import resource
from contextlib import suppress

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""For the environment of a process that trains on a CPU (glibc reads it when a process starts): large buffers come in
pages of 2 MiB. A buffer of 32 MiB and more goes back to the system when it is freed and is faulted in again when the
next step wants it; by 4 KiB pages that is 3 GB/s, by 2 MiB pages 19 GB/s. Keeping the memory instead (``mallopt``) was
as fast and doubled the peak."""


def give_back_at_once() -> None:
    """From now on, have buffers from 1 MiB on go back to the system when they are freed (glibc; elsewhere nothing).

    glibc keeps them in pieces that later buffers do not fit: a run's peak is then 1.3 to 2 times what its tensors take.
    This makes the peak what it must be and every large buffer new pages: 10 to 50 % of the speed.
    """
    with suppress(OSError, AttributeError):
        mmap_threshold = -3  # malloc.h
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**20)


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
