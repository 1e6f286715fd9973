"""Clocks: seconds of a step, the best of a product and of a copy, where a step's time goes."""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
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


def times_of(
    step: Callable[[], Any],
    device: torch.device,
    *,
    steps: int,
    warm_up: int,
    before: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Seconds of every step after the first ones; the device has finished when the clock stops.

    Args:
        before: what each step needs before it, which is not timed.
    """
    times = []
    for at in range(warm_up + steps):
        before()
        finish(device)
        started = time.perf_counter()
        step()
        finish(device)
        if at >= warm_up:
            times.append(time.perf_counter() - started)
    return times


def seconds_of(step: Callable[[], Any], device: torch.device, **how: Any) -> float:
    """Median seconds of a step; arguments as for ``times_of``."""
    return statistics.median(times_of(step, device, **how))


def gemm_flops(device: torch.device, size: int) -> float:
    """Best bf16 product of ``size``-square matrices, FLOP/s."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / min(times_of(lambda: a @ b, device, steps=17, warm_up=3))


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Best copy of ``size`` bytes on the device, bytes read and written a second."""
    a = torch.randint(0, 100, (size,), device=device, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2 * size / min(times_of(lambda: b.copy_(a), device, steps=17, warm_up=3))


def kernels(step: Callable[[], Any], device: torch.device) -> tuple[float, list[tuple[str, float, int]]]:
    """One step under the profiler: its wall seconds, and each kernel's name, seconds and calls, the longest first."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as record:
        started = time.perf_counter()
        step()
        finish(device)
        wall = time.perf_counter() - started
    rows = []
    for event in record.key_averages():
        if event.is_user_annotation:
            continue
        if device.type == "cpu":
            rows.append((event.key, event.self_cpu_time_total * 1e-6, event.count))
        elif event.device_type == DeviceType.CUDA:  # the operators that launched them count them once more
            rows.append((event.key, event.self_device_time_total * 1e-6, event.count))
    return wall, sorted(rows, key=lambda row: -row[1])


def time_split(step: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Shares of one step's wall time by kind of kernel; ``idle`` is where the device waited for the host."""
    wall, rows = kernels(step, device)
    shares: dict[str, float] = defaultdict(float)
    for name, seconds, _ in rows:
        shares[_kind(name)] += seconds / wall
    shares["idle"] = max(0.0, 1 - sum(shares.values()))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clean() -> None:
    """Give back what the last subject held: memory and compiled code."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    return next((kind for kind, parts in _KINDS if any(part in lower for part in parts)), "other")
