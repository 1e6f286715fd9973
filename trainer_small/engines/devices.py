"""The devices of this machine as the launcher sees them, without torch."""

import os
import re
from pathlib import Path

from fits.errors import UserError
from trainer_small.engines.engine import Resources
from trainer_small.machine.machine import default_workers


def visible_gpus() -> list[str]:
    """Names that ``CUDA_VISIBLE_DEVICES`` takes; those it already holds, when a scheduler or the user set it."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    devices = Path("/dev")
    found = [path for path in devices.iterdir() if re.fullmatch(r"nvidia\d+", path.name)] if devices.is_dir() else []
    return [str(index) for index in range(len(found))]


def local_slots(workers: int | None, resources: Resources, *, on_gpu: bool) -> list[str | None]:
    """One entry a worker: the devices it may see, or ``None`` for the CPU.

    Args:
        workers: at most so many; all that fit when left out.
        resources: of one run.
        on_gpu: whether any run would take a device.

    Raises:
        UserError: there are fewer devices than one run needs.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; it must be at least 1.")
    gpus = visible_gpus() if on_gpu else []
    if not gpus or not resources.gpus:
        # Without devices a run of several takes as many processes on the CPU: gloo, for trying it out.
        hidden = None if resources.gpus else ""
        return [hidden] * (workers or default_workers(resources.threads * max(resources.gpus, 1)))
    if len(gpus) < resources.gpus:
        raise UserError(f"a run needs {resources.gpus} GPUs and this machine shows {len(gpus)}; lower --gpus-per-run.")
    count = len(gpus) // resources.gpus
    groups = [",".join(gpus[index * resources.gpus : (index + 1) * resources.gpus]) for index in range(count)]
    slots: list[str | None] = [*groups * resources.per_gpu]
    return slots[:workers]


def oom_kills() -> int:
    """Processes that the system has killed for memory since it started, here or in this container."""
    for path, key in ((Path("/proc/vmstat"), "oom_kill"), (Path("/sys/fs/cgroup/memory.events"), "oom_kill")):
        try:
            for line in path.read_text().splitlines():
                if line.startswith(key + " "):
                    return int(line.split()[1])
        except OSError:
            continue
    return 0
