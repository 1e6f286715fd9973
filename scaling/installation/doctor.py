"""What is installed and what this machine offers: for a first hour, and for a report of a fault."""

import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from fits.tables.public_tables import data_root, find_table, list_tables
from fits.version import DISTRIBUTION, program_version
from scaling.installation.extras import how_to_install
from trainer_small.machine.machine import available_memory_bytes, default_workers, usable_cores

EXTRAS = {
    "hf": "check exported configs by transformers",
    "fast": "count text by gigatoken",
    "megatron": "check Megatron-LM exports",
    "torchtitan": "check torchtitan exports",
    "olmo-core": "check OLMo-core exports",
    "slurm": "sweeps on a Slurm cluster",
    "ray": "sweeps on a Ray cluster",
    "tensorboard": "follow runs in TensorBoard",
    "trackio": "follow runs in trackio",
    "wandb": "follow runs in Weights & Biases",
    "notebooks": "run notebooks/",
    "dev": "tests and lint",
}
"""What each extra is for; all of them are optional."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``mend`` is empty where nothing needs doing."""

    what: str
    found: str
    mend: str = ""
    needed: bool = True
    """False for what is only there for one purpose, named in ``what``."""


def examine() -> list[Finding]:
    """The interpreter, the machine, the device, the required packages, the extras and the public tables."""
    return [*_machine(), _device(), *_packages(), _tables()]


def _machine() -> Iterator[Finding]:
    memory = available_memory_bytes() / 2**30
    workers = default_workers(1)
    free = shutil.disk_usage(".").free / 2**30
    yield Finding("version", f"{DISTRIBUTION} {program_version()}")
    yield Finding("python", f"{platform.python_version()} at {sys.prefix}")
    yield Finding("cores", f"{usable_cores()} usable")
    yield Finding(
        "memory",
        f"{memory:.1f} GiB free, so {workers} proxy run{'s' * (workers > 1)} at a time",
        "free some memory; one proxy run needs about 1 GiB" if memory < 1 else "",
    )
    yield Finding("disk", f"{free:.0f} GiB free here", "free some space" if free < 1 else "")


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("device", f"torch cannot be loaded: {error}", "install torch for this machine")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("device", "; ".join(f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in names))
    # Only where the system has an NVIDIA driver is the missing GPU a fault.
    mend = "a driver is here: install the torch build for its CUDA version" if shutil.which("nvidia-smi") else ""
    if torch.version.cuda is None:
        return Finding("device", "CPU; this torch is built without CUDA", mend)
    return Finding("device", f"CPU; torch is built for CUDA {torch.version.cuda} but sees no GPU", mend)


def _requirements() -> list[str]:
    """None where this program runs from a checkout on the path."""
    try:
        return importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _packages() -> Iterator[Finding]:
    """By this package's own metadata: each required package, then a line for each extra."""
    extras: dict[str, list[str]] = {name: [] for name in EXTRAS}
    for requirement in _requirements():
        name, _, marker = requirement.partition(";")
        package = re.split(r"[\[<>=!~ ]", name.strip(), maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if extra:
            if package != DISTRIBUTION:
                extras.setdefault(extra[1], []).append(package)
        else:
            version = _installed(package)
            yield Finding(package, version or "not installed", "" if version else f"pip install '{name.strip()}'")
    for extra, packages in extras.items():
        here = {package: _installed(package) for package in packages}
        missing = [package for package, version in here.items() if version is None]
        found = [f"{package} {version}" for package, version in here.items() if version]
        yield Finding(
            f"[{extra}] {EXTRAS.get(extra, '')}".rstrip(),
            ", ".join(found + [f"no {package}" for package in missing]),
            how_to_install(extra) if missing else "",
            needed=False,
        )


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tables() -> Finding:
    here = sum(find_table(table.name) is not None for table in list_tables())
    mend = "" if here else "scaling data get NAME, or set SCALING_DATA"
    return Finding("public run tables", f"{here} of {len(list_tables())} in {data_root()}", mend, needed=False)
