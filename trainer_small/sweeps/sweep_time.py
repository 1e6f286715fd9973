"""How long a sweep takes: each run's speed, by measurement here or by a device's figures, shared out among workers."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from trainer_small.config import RunSpec
from trainer_small.sweeps.gpu_step import Bound, step_time


@dataclass(frozen=True)
class Speed:
    """Seconds that a run's own steps take: ``tokens / tokens_per_second`` of its shape."""

    source: str
    """What the figures are from, in words."""
    tokens_per_second: Callable[[RunSpec], float]
    bound: Callable[[RunSpec], Bound] | None = None
    """What keeps a run from being faster, where it is known."""

    def seconds(self, run: RunSpec) -> float:
        return run.tokens_spent / self.tokens_per_second(run)


def device_speed(
    name: str, peak_flops: float, utilisation: float | None = None, *, memory_bandwidth: float | None = None
) -> Speed:
    """By a device's data sheet: at ``utilisation`` of the peak, or left out, by what bounds a step (``gpu_step``).

    Args:
        peak_flops: dense bf16 FLOP/s; memory_bandwidth: bytes/s, wanted where there is no ``utilisation``.
    """
    if utilisation is not None:

        def at_share(run: RunSpec) -> float:
            return peak_flops * utilisation / run.architecture.flops_per_token(run.training.sequence_length)

        return Speed(f"{name}: data sheet, {utilisation:.0%} utilisation", at_share)
    assert memory_bandwidth is not None
    step = partial(step_time, peak_flops=peak_flops, memory_bandwidth=memory_bandwidth)

    def by_bounds(run: RunSpec) -> float:
        return run.training.batch_tokens / step(run).seconds

    source = f"{name}: data sheet, utilisation by what bounds a step (a model that no card was held against)"
    return Speed(source, by_bounds, lambda run: step(run).bound)


def makespan(runs: Sequence[RunSpec], seconds: Sequence[float], workers: int) -> float:
    """Wall time when ``workers`` take the runs longest first; a branch begins when its trunk has come so far.

    A trunk's state is taken to exist after the share of its own time that its steps up to there make.
    """
    own = {run.run_id: time for run, time in zip(runs, seconds, strict=True)}
    specs = {run.run_id: run for run in runs}
    begun: dict[str, float] = {}
    waiting = sorted(runs, key=lambda run: -own[run.run_id])
    free = [0.0] * workers
    end = 0.0
    while waiting:
        now = heapq.heappop(free)
        ready = {run.run_id: _ready(run, specs, own, begun) for run in waiting}
        # The longest that can begin now, else the one that can begin first.
        run = next((run for run in waiting if ready[run.run_id] <= now), None)
        run = run or min(waiting, key=lambda each: ready[each.run_id])
        begun[run.run_id] = max(now, ready[run.run_id])
        waiting.remove(run)
        done = begun[run.run_id] + own[run.run_id]
        end = max(end, done)
        heapq.heappush(free, done)
    return end


def _ready(run: RunSpec, specs: dict[str, RunSpec], own: dict[str, float], begun: dict[str, float]) -> float:
    if run.trunk is None:
        return 0.0
    trunk = specs[run.trunk.run_id]
    if trunk.run_id not in begun:
        return math.inf
    share = (run.first_step - trunk.first_step) / (trunk.training.steps - trunk.first_step)
    return begun[trunk.run_id] + share * own[trunk.run_id]
