"""What decides the rounding of a run: the precision of float32 products, found by a probe and recorded."""

import platform
from typing import Literal

import torch

from trainer_small.machine.run_memory import WIDE

Precision = Literal["highest", "medium"]

_TOLERANCE = 2e-6


def set_matmul_precision(device: torch.device, hidden_size: int) -> Precision:
    """Choose how float32 products are computed, for this process.

    "medium" allows bfloat16 inside; on CPUs without a fast unit for that it picks a faster kernel that still
    is float32. So it is taken only where a product agrees with "highest" to float32 accuracy, and only for
    wide models. On CUDA it would mean TF32 and is not used.
    """
    torch.set_flush_denormal(True)  # moments that decay towards zero would slow the CPU down many-fold
    torch.set_float32_matmul_precision("highest")
    if device.type != "cpu" or hidden_size < WIDE:
        return "highest"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 512, 512, generator=generator)
    exact = a @ b
    torch.set_float32_matmul_precision("medium")
    error = ((a @ b - exact).norm() / exact.norm()).item()
    if error < _TOLERANCE:
        return "medium"
    torch.set_float32_matmul_precision("highest")
    return "highest"


def processor_name() -> str:
    """The CPU's name as the system gives it."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
