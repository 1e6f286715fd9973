"""How fast this device multiplies matrices now: what a run's speed is measured against."""

import time
from functools import cache

import torch

_CPU_SIZE, _CUDA_SIZE, _TRIALS = 768, 8192, 5


@cache
def gemm_flops_per_second(device: torch.device, dtype: torch.dtype, threads: int, precision: str) -> float:
    """The fastest of a few square products, FLOP/s of this process; measured once for each setting.

    Args:
        device, dtype: of the product.
        threads, precision: what the process is set to, so that a change measures anew.
    """
    del threads, precision
    size = _CUDA_SIZE if device.type == "cuda" else _CPU_SIZE
    a, b = torch.rand(2, size, size, device=device).to(dtype)
    out = torch.empty_like(a)
    best = float("inf")
    for trial in range(_TRIALS + 1):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if trial:  # the first one chooses a kernel
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
