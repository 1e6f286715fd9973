"""How long a sweep takes: each run's speed, by measurement here or by a device's figures, shared out among workers."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer_small.config import RunSpec

_WIDTHS = (256, 512, 768, 1024, 1536, 2048)
_UTILISATION = (0.15, 0.22, 0.26, 0.28, 0.31, 0.33)
"""Share of the dense bf16 peak that fine-grained MoE proxies of these widths reach: goals of this project for one
H200, about half of a roofline bound, where the published trainers stand too; for estimates, until one is measured."""


def usual_utilisation(hidden_size: int) -> float:
    """Model FLOPs utilisation to expect on one data-centre GPU, by width; falls with the width below 256."""
    if hidden_size <= _WIDTHS[0]:
        return _UTILISATION[0] * hidden_size / _WIDTHS[0]
    at = min(hidden_size, _WIDTHS[-1])
    above = next(index for index, width in enumerate(_WIDTHS) if at <= width)
    left, right = _WIDTHS[above - 1], _WIDTHS[above]
    share = math.log(at / left) / math.log(right / left)
    return _UTILISATION[above - 1] + share * (_UTILISATION[above] - _UTILISATION[above - 1])


@dataclass(frozen=True)
class Speed:
    """Seconds that a run's own steps take: ``tokens / tokens_per_second`` of its shape."""

    source: str
    """What the figures are from, in words."""
    tokens_per_second: Callable[[RunSpec], float]

    def seconds(self, run: RunSpec) -> float:
        return run.tokens_spent / self.tokens_per_second(run)


def device_speed(name: str, peak_flops: float, utilisation: float | None = None) -> Speed:
    """By a device's peak and a utilisation, the usual one of each width when left out."""

    def tokens_per_second(run: RunSpec) -> float:
        share = utilisation or usual_utilisation(run.architecture.hidden_size)
        return peak_flops * share / run.architecture.flops_per_token(run.training.sequence_length)

    which = f"{utilisation:.0%} utilisation" if utilisation else "the usual utilisation of each width"
    return Speed(f"{name}: data sheet, {which}", tokens_per_second)


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
