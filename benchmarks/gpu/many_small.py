"""Part 3: many tiny models on one card, one by one, as CUDA graphs, stacked, in several processes: runs an hour."""

import multiprocessing
import queue
import time
from collections.abc import Callable
from typing import Any

import torch
from record import Record, arguments
from shapes import Shape, small_shapes, tiny
from subjects import Step, ours, stack_of
from timing import clean, finish, seconds_of

_TOKENS_PER_PARAMETER = 20
"""Length of the run that runs per hour are counted in, by active parameters."""
_BASE = "one, compiled"


def ways(device: torch.device, *, compiled: bool) -> dict[str, tuple[int, Callable[[Shape], Step]]]:
    """Models at once and what makes one step of them all, by the name of the way."""
    found: dict[str, tuple[int, Callable[[Shape], Step]]] = {
        _BASE: (1, lambda shape: ours(shape, device, compiled=compiled))
    }
    graphs = device.type == "cuda" and compiled
    for models in (8, 32) if compiled else (2,):
        found[f"stack of {models}"] = (
            models,
            lambda shape, models=models: stack_of(shape, device, models, compiled=compiled),
        )
    if graphs:
        found["one, graphs"] = 1, lambda shape: ours(shape, device, compiled=True, graphs=True)
        for models in (8, 32):
            found[f"stack of {models}, graphs"] = (
                models,
                lambda shape, models=models: stack_of(shape, device, models, compiled=True, graphs=True),
            )
    found["one, eager"] = 1, lambda shape: ours(shape, device, compiled=False)
    return found


def main() -> None:
    options = arguments(__doc__)
    record, device = Record(options, clean), torch.device(options.device)
    compiled = not options.tiny
    shapes = [tiny(shape) for shape in small_shapes()[:1]] if options.tiny else small_shapes()
    steps = 3 if options.tiny else 10
    record.facts(tokens_per_parameter=_TOKENS_PER_PARAMETER, base=_BASE)
    for shape in shapes:
        for way, (models, make) in ways(device, compiled=compiled).items():

            def one(shape: Shape = shape, way: str = way, models: int = models, make: Any = make) -> None:
                seconds = seconds_of(make(shape), device, steps=steps, warm_up=3)
                _row(record, shape, way, models, models * shape.batch_tokens / seconds)

            record.attempt(f"{shape.name}, {way}", one, limit=25)
        for count in (2,) if options.tiny else (8, 4, 2):

            def several(shape: Shape = shape, count: int = count) -> None:
                speed = _processes(shape, device, count, 4 * steps, compiled, min(40.0, record.left() - 3))
                _row(record, shape, f"{count} processes", count, speed)

            record.attempt(f"{shape.name}, {count} processes", several, limit=45)


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


def _processes(shape: Shape, device: torch.device, count: int, steps: int, compiled: bool, limit: float) -> float:
    """Tokens a second of so many processes, each with a model of its own, that begin together when all are warm.

    Raises:
        RuntimeError: one of them ended, or they are not done after ``limit`` seconds.
    """
    context = multiprocessing.get_context("spawn")
    ready, speeds = context.Barrier(count), context.Queue()
    arguments = shape, device.type, steps, compiled, ready, speeds
    workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    found: list[float] = []
    deadline = time.monotonic() + limit
    try:
        while len(found) < count:
            try:
                found.append(speeds.get(timeout=1))
            except queue.Empty:
                if any(worker.exitcode for worker in workers):
                    raise RuntimeError(f"one of {count} processes ended with an error: see the log") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{count} processes were not done after {limit:.0f} s") from None
        return sum(found)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _work(shape: Shape, device_type: str, steps: int, compiled: bool, ready: Any, speeds: Any) -> None:
    torch.set_num_threads(1)
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
