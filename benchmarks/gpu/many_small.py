"""Part 3: many tiny models on one card, one by one, as CUDA graphs, stacked, in several processes: runs an hour."""

import multiprocessing
import os
import queue
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.shapes import Shape, small_shapes, tiny
from benchmarks.gpu.subjects import Step, ours, stack_of
from benchmarks.gpu.timing import clean, finish, seconds_of

_TOKENS_PER_PARAMETER = 20
"""Length of the run that runs per hour are counted in, by active parameters."""
_BASE = "one, compiled"


def ways(device: torch.device, steps: int, *, compiled: bool) -> dict[str, tuple[int, Callable[[Shape], float]]]:
    """Models at once, and what measures the tokens a second of them all, by the name of the way; the most telling
    first."""

    def step_of(models: int, make: Callable[[Shape], Step]) -> tuple[int, Callable[[Shape], float]]:
        return (
            models,
            lambda shape: models * shape.batch_tokens / seconds_of(make(shape), device, steps=steps, warm_up=3),
        )

    def stack(models: int, *, graphs: bool = False) -> tuple[int, Callable[[Shape], float]]:
        return step_of(models, lambda shape: stack_of(shape, device, models, compiled=compiled, graphs=graphs))

    def processes(count: int) -> tuple[int, Callable[[Shape], float]]:
        return count, lambda shape: _processes(shape, device, count, 4 * steps, compiled)

    base = step_of(1, lambda shape: ours(shape, device, compiled=compiled))
    eager = step_of(1, lambda shape: ours(shape, device, compiled=False))
    if not compiled:
        return {_BASE: base, "stack of 2": stack(2), "one, eager": eager, "2 processes": processes(2)}
    found = {_BASE: base, "stack of 32": stack(32), "8 processes": processes(8)}
    if device.type == "cuda":
        found["one, graphs"] = step_of(1, lambda shape: ours(shape, device, compiled=True, graphs=True))
        found["stack of 32, graphs"] = stack(32, graphs=True)
    found |= {"stack of 8": stack(8), "one, eager": eager}
    if device.type == "cuda":
        found["stack of 8, graphs"] = stack(8, graphs=True)
    return found | {"4 processes": processes(4), "2 processes": processes(2)}


def main() -> None:
    options = arguments(__doc__)
    record, device = Record(options, clean), torch.device(options.device)
    shapes = [tiny(shape) for shape in small_shapes()[:1]] if options.tiny else small_shapes()
    record.facts(tokens_per_parameter=_TOKENS_PER_PARAMETER, base=_BASE)
    found = ways(device, 3 if options.tiny else 10, compiled=not options.tiny)
    for shape in shapes:
        for way, (models, speed) in found.items():

            def one(shape: Shape = shape, way: str = way, models: int = models, speed: Any = speed) -> None:
                _row(record, shape, way, models, speed(shape))

            record.attempt(f"{shape.name}, {way}", one, limit=45)


def _row(record: Record, shape: Shape, way: str, models: int, speed: float) -> None:
    active = shape.architecture.params_active
    record.row(
        shape=shape.name,
        active=active,
        way=way,
        models=models,
        tokens_per_second=speed,
        runs_per_hour=3600 * speed / (_TOKENS_PER_PARAMETER * active),
    )


def _processes(shape: Shape, device: torch.device, count: int, steps: int, compiled: bool) -> float:
    """Tokens a second of so many processes, each with a model of its own, that begin together when all are warm.

    Raises:
        RuntimeError: one of them ended with an error.
    """
    context = multiprocessing.get_context("spawn")
    ready, speeds = context.Barrier(count), context.Queue()
    arguments = shape, device.type, steps, compiled, ready, speeds
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    found: list[float] = []
    try:
        while len(found) < count:
            try:
                found.append(speeds.get(timeout=1))
            except queue.Empty:
                if any(worker.exitcode for worker in workers):
                    raise RuntimeError(f"one of {count} processes ended with an error: see the log") from None
        return sum(found)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _work(shape: Shape, device_type: str, steps: int, compiled: bool, ready: Any, speeds: Any) -> None:
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # each would start as many compilers as there are cores
    device = torch.device(device_type)
    step = ours(shape, device, compiled=compiled)
    seconds_of(step, device, steps=1, warm_up=3)
    ready.wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    finish(device)
    speeds.put(steps * shape.batch_tokens / (time.perf_counter() - started))
    speeds.close()
    speeds.join_thread()


if __name__ == "__main__":
    main()
