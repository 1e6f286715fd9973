"""What is installed and what this machine offers: for a first hour, and for a report of a fault."""

import importlib.metadata
import platform
import re
import sys
from dataclasses import dataclass

from trainer_small.machine import available_memory_bytes, default_workers, usable_cores

_DISTRIBUTION = "moe-scaling"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``mend`` is empty where nothing needs doing."""

    what: str
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """The interpreter, the machine, the device, the required packages and the extras, in that order."""
    return [*_machine(), *_device(), *_packages()]


def _machine() -> list[Finding]:
    memory = available_memory_bytes() / 2**30
    workers = default_workers(1)
    return [
        Finding("python", f"{platform.python_version()} at {sys.prefix}"),
        Finding("cores", f"{usable_cores()} usable"),
        Finding(
            "memory",
            f"{memory:.1f} GiB free, so {workers} proxy run{'s' * (workers > 1)} at a time",
            "free some memory; one proxy run needs about 1 GiB" if memory < 1 else "",
        ),
    ]


def _device() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("device", f"torch cannot be loaded: {error}", "install torch for this machine")]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [Finding("device", f"{each.name}, {each.total_memory / 2**30:.0f} GiB") for each in names]
    if torch.version.cuda is None:
        return [Finding("device", "CPU; this torch is built without CUDA", _gpu_mend())]
    return [Finding("device", f"CPU; torch is built for CUDA {torch.version.cuda} but sees no GPU", _gpu_mend())]


def _gpu_mend() -> str:
    """Only where the system has an NVIDIA driver is the missing GPU a fault."""
    return "" if not _has_driver() else "a driver is here: install the torch build for its CUDA version"


def _has_driver() -> bool:
    import shutil

    return shutil.which("nvidia-smi") is not None


def _packages() -> list[Finding]:
    """Every requirement, from this package's own metadata: required ones first, then those of each extra."""
    found = []
    for requirement in importlib.metadata.requires(_DISTRIBUTION) or []:
        name, _, marker = requirement.partition(";")
        package = re.split(r"[\[<>=!~ ]", name.strip(), maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if package == _DISTRIBUTION:
            continue
        try:
            version, mend = importlib.metadata.version(package), ""
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
            wanted = f"{_DISTRIBUTION}[{extra[1]}]" if extra else name.strip()
            mend = f"pip install '{wanted}'"
        found.append(Finding(f"{package} ({extra[1]})" if extra else package, version, mend))
    return found
