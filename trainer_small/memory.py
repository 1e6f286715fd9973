"""The peak memory of a run, also when one process does several after each other."""

import os
import resource


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
