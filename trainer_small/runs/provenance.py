"""What made a run: the machine, the versions and the state of this program's source."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fits.version import program_version
from trainer_small.machine.numerics import processor_name
from trainer_small.result import Git, Machine
from trainer_small.steps.training import Training


def machine(training: Training, precision: str) -> Machine:
    """As the run in this process finds it; ``precision`` is what ``set_matmul_precision`` chose."""
    on_gpu = training.device.type == "cuda"
    return Machine(
        device=torch.cuda.get_device_name(training.device) if on_gpu else processor_name(),
        threads=torch.get_num_threads(),
        processes=training.parallel.ranks.size,
        dtype=training.config.dtype_on(training.device.type),
        attention=training.model.attention_kernel(training.config.training.sequence_length, training.device.type),
        matmul_precision=precision,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        program=program_version(),
        git=git_state(),
    )


@cache
def git_state() -> Git | None:
    """Commit of this program's source, and whether it was changed since; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(commit=commit.stdout.strip(), changed=bool(changes.stdout.strip()))
