"""The one command that every engine starts: ``scaling sweep run-one DIR``, under torchrun for several devices."""

import sys
from collections.abc import Sequence
from pathlib import Path

from trainer_small.engines.engine import Resources


def run_command(
    directories: Sequence[Path | str], resources: Resources, *, python: str = sys.executable, wait: bool = True
) -> list[str]:
    """The command line that trains these folders with these resources.

    Several folders share the process's devices, ``resources.per_gpu`` at a time. A run of several devices has them to
    itself: ``torch.distributed.run`` starts one process on each.
    """
    options = ["--threads", str(resources.threads)] + (["--wait"] if wait else [])
    if resources.gpus > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={resources.gpus}"]
        return [python, *launcher, "-m", "scaling", "sweep", "run-one", *map(str, directories), *options]
    if len(directories) > 1:
        options += ["--at-once", str(resources.per_gpu)]
    return [python, "-m", "scaling", "sweep", "run-one", *map(str, directories), *options]
