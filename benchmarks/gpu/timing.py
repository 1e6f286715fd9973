"""Clocks: seconds of a step, the best of a product, and where a step's time goes."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_KINDS = (
    ("attention", ("flash", "fmha", "attention", "flex", "sdpa")),
    ("expert products", ("group",)),
    ("products", ("gemm", "nvjet", "cutlass", "cublas", "::mm", "::bmm", "::addmm", "matmul")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("routing", ("sort", "radix", "topk", "scatter", "scan", "lay_out", "gather")),
    ("copies", ("memcpy", "memset", "copy")),
    ("fused", ("triton", "compiledfxgraph")),
)


def seconds_of(step: Callable[[], None], device: torch.device, *, steps: int, warm_up: int) -> float:
    """Median seconds of a step; the device has finished when the clock stops."""
    times = []
    for at in range(warm_up + steps):
        started = time.perf_counter()
        step()
        _finish(device)
        if at >= warm_up:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def gemm_flops(device: torch.device, size: int) -> float:
    """Best bf16 product of ``size``-square matrices, FLOP/s."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        _finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def time_split(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Shares of one step's wall time by kind of kernel; ``idle`` is where the device waited for the host."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    started = time.perf_counter()
    with profile(activities=activities) as record:
        step()
        _finish(device)
    wall = time.perf_counter() - started
    shares: dict[str, float] = defaultdict(float)
    for event in record.key_averages():
        micros = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        shares[_kind(event.key)] += micros * 1e-6 / wall
    shares["idle"] = max(0.0, 1 - sum(shares.values()))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    return next((kind for kind, parts in _KINDS if any(part in lower for part in parts)), "other")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
