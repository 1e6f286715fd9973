"""What this machine lets a process use: cores and memory, with the limits of a container."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_WORKER_BYTES = 2**30
"""Memory to have for one worker process: torch, and a model of a few million parameters."""


def default_workers(threads: int, worker_bytes: int = _WORKER_BYTES) -> int:
    """Worker processes of ``threads`` threads each that fit the usable cores and the free memory; at least 1.

    Args:
        worker_bytes: what one takes: ``process_bytes`` and ``run_memory_bytes`` (``run_memory``) of the largest run.
    """
    by_memory = available_memory_bytes() // worker_bytes
    return max(1, min(usable_cores() // threads, by_memory))


def usable_cores() -> int:
    """Cores this process may run on, within a container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, int(quota[0]) // int(quota[1]))
    return max(1, cores)


def available_memory_bytes() -> int:
    """Memory that new processes can take without swapping; a large number where the system does not say."""
    found = [2**62]
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        found.append(int(limit) - int(used))
    return max(0, min(found))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
