"""The speed of this machine: some steps of a few of a sweep's shapes, on made-up tokens."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from trainer_small.config import RunSpec
from trainer_small.runs.run_loop import choose_device
from trainer_small.steps.training import Training
from trainer_small.sweeps.sweep_time import Speed

_SHAPES = 3
_FIRST_STEPS = 3
_SECONDS = 1.5
"""Measured for each shape, after the first steps."""


class _MadeUpTokens:
    """Stands for a reader: the same random tokens again and again, which a model learns, so that nothing diverges."""

    def __init__(self, run: RunSpec) -> None:
        self._length, self._vocab_size = run.training.sequence_length + 1, run.architecture.vocab_size

    def batch(self, position: int, count: int) -> np.ndarray:
        """As ``TokenReader.batch``."""
        del position
        return np.random.default_rng(0).integers(0, self._vocab_size, (count, self._length))


def measured_speed(runs: Sequence[RunSpec], *, threads: int = 1) -> Speed:
    """Train a few steps of the smallest, a middle and the largest shape here; others lie between, in logarithms.

    Takes a few seconds.
    """
    torch.set_num_threads(threads)
    shapes = sorted({_flops(run): run for run in runs}.items())
    picked = [shapes[round(index)] for index in _spread(len(shapes))]
    measured = [(flops, _tokens_per_second(run)) for flops, run in picked]

    def tokens_per_second(run: RunSpec) -> float:
        flops = _flops(run)
        below = max((each for each in measured if each[0] <= flops), default=measured[0])
        above = min((each for each in measured if each[0] >= flops), default=measured[-1])
        if below[0] >= above[0]:
            return below[1]
        share = math.log(flops / below[0]) / math.log(above[0] / below[0])
        return below[1] ** (1 - share) * above[1] ** share

    return Speed(f"measured on this machine, {threads} thread{'s' if threads > 1 else ''} a run", tokens_per_second)


def _spread(count: int) -> list[float]:
    wanted = min(_SHAPES, count)
    return [index * (count - 1) / max(wanted - 1, 1) for index in range(wanted)]


def _flops(run: RunSpec) -> int:
    return run.architecture.flops_per_token(run.training.sequence_length)


def _tokens_per_second(run: RunSpec) -> float:
    # The horizon is longer than what is trained here; a rate that still warms up moves nothing far.
    long = run.training.model_copy(update={"tokens": 10**6 * run.training.batch_tokens, "batch_ramp": ()})
    run = run.model_copy(update={"training": long})
    training = Training(run, _MadeUpTokens(run), choose_device(run))  # type: ignore[arg-type]
    for _ in range(_FIRST_STEPS):
        training.advance()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        training.advance()
        training.losses.clear()  # made-up text need not be learnt
        steps += 1
    training.settle()
    return steps * run.training.batch_tokens / (time.perf_counter() - started)
