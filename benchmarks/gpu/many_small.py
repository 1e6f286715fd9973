"""Many tiny models on one device: one by one, as CUDA graphs, stacked, and in several processes, by runs per hour."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from shapes import Shape
from subjects import Step, ours, stack_of
from timing import seconds_of

from scaling.console import note, print_table

_TOKENS_PER_PARAMETER = 20
"""Length of the run that runs per hour are counted in, by active parameters."""


@dataclass
class SmallRow:
    shape: str
    active: int
    way: str
    models: int
    tokens_per_second: float
    """Of all models together."""
    runs_per_hour: float
    gain: float
    """Over one compiled model."""


def measure(shape: Shape, device: torch.device, steps: int, *, tiny: bool) -> list[SmallRow]:
    compiled, on_gpu = not tiny, device.type == "cuda"
    ways: dict[str, tuple[int, Callable[[], Step]]] = {
        "one, eager": (1, lambda: ours(shape, device, compiled=False)),
        "one, compiled": (1, lambda: ours(shape, device, compiled=compiled)),
    }
    if on_gpu:
        ways["one, graphs"] = 1, lambda: ours(shape, device, compiled=True, graphs=True)
    for models in (2,) if tiny else (8, 32):
        ways[f"stack of {models}"] = models, lambda models=models: stack_of(shape, device, models, compiled=compiled)
        if on_gpu:
            ways[f"stack of {models}, graphs"] = (
                models,
                lambda models=models: stack_of(shape, device, models, compiled=True, graphs=True),
            )
    speeds: dict[str, tuple[int, float]] = {}
    for way, (models, make) in ways.items():
        try:
            seconds = seconds_of(make(), device, steps=steps, warm_up=3)
        except torch.OutOfMemoryError:
            note(f"{shape.name}, {way}: does not fit")
            continue
        speeds[way] = models, models * shape.batch_tokens / seconds
    for processes in (2,) if tiny else (2, 4, 8):
        speeds[f"{processes} processes"] = processes, _processes(shape, device, processes, steps, compiled)
    base = speeds["one, compiled"][1]
    active = shape.architecture.params_active
    return [
        SmallRow(
            shape=shape.name,
            active=active,
            way=way,
            models=models,
            tokens_per_second=speed,
            runs_per_hour=3600 * speed / (_TOKENS_PER_PARAMETER * active),
            gain=speed / base,
        )
        for way, (models, speed) in speeds.items()
    ]


def print_rows(rows: list[SmallRow]) -> None:
    print_table(
        ["shape", "way", "tokens/s", "runs/hour", "/ one compiled"],
        [
            [row.shape, row.way, f"{row.tokens_per_second:,.0f}", f"{row.runs_per_hour:,.1f}", f"{row.gain:.2f}"]
            for row in rows
        ],
        title=f"many tiny models; a run is {_TOKENS_PER_PARAMETER} tokens per active parameter",
    )


def _processes(shape: Shape, device: torch.device, count: int, steps: int, compiled: bool) -> float:
    """Tokens a second of so many processes, each with a model of its own, that begin together when all are warm."""
    context = multiprocessing.get_context("spawn")
    ready, speeds = context.Barrier(count), context.Queue()
    workers = [
        context.Process(target=_work, args=(shape, device.type, steps, compiled, ready, speeds)) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    total = sum(speeds.get(timeout=1800) for _ in workers)
    for worker in workers:
        worker.join()
    return total


def _work(shape: Shape, device_type: str, steps: int, compiled: bool, ready: Any, speeds: Any) -> None:
    torch.set_num_threads(1)
    device = torch.device(device_type)
    step = ours(shape, device, compiled=compiled)
    seconds_of(step, device, steps=1, warm_up=3)
    ready.wait()
    started = time.perf_counter()
    for _ in range(4 * steps):
        step()
    if device_type == "cuda":
        torch.cuda.synchronize()
    speeds.put(4 * steps * shape.batch_tokens / (time.perf_counter() - started))
