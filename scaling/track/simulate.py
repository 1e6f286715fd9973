"""Logs drawn from a plan's own promise: what a run would look like, on the curve or off it by a given factor."""

import dataclasses
import math

import numpy as np
import pandas as pd

from scaling.cluster.run import run_of
from scaling.plan import TrainingPlan
from scaling.track.blocks import BRANCH_SD, GAP_DRIFT
from scaling.track.compare import USUAL_GAP


@dataclasses.dataclass(frozen=True)
class Truth:
    """How a drawn run comes about."""

    factor: float = 1.0
    """Of the promised loss; 1.01 is a run 1 % worse."""
    gap: float | None = None
    """Of the undecayed run, as a fraction of the final loss; drawn from the usual prior when left out."""
    noise: float = 0.004
    """Standard deviation of a row, as a fraction of the loss."""
    memory: float = 0.9
    """Correlation of neighbouring rows' noise."""


def drawn_log(
    plan: TrainingPlan, rng: np.random.Generator, *, until: float, rows: int = 2000, branches: int = 0,
    truth: Truth = Truth(),
) -> pd.DataFrame:  # fmt: skip
    """A log with columns step, val_loss and decayed.

    Args:
        plan: its curve, modes, run_sd and schedule are what is drawn from.
        rng: the source of all chance.
        until: fraction of the plan's tokens that the run has seen.
        rows: of the trunk.
        branches: rows of branches that were decayed to their end on the way.
        truth: how the run comes about.
    """
    points = plan.prediction.curve
    place = np.log([point.tokens for point in points])
    z = rng.standard_normal(len(points[0].modes))
    drawn = np.array([point.value + float(np.dot(z, point.modes)) for point in points])
    drawn = drawn * truth.factor + (plan.prediction.run_sd or 0) * rng.standard_normal()
    end = points[-1].value
    gap = truth.gap * end if truth.gap is not None else end * (USUAL_GAP[0] + USUAL_GAP[1] * rng.standard_normal())
    run = run_of(plan)
    steps = np.unique(np.linspace(1, plan.steps * until, rows).astype(int))
    tokens = steps * plan.batch_tokens
    rates = np.array([run.learning_rate_after(step) for step in steps])
    height = (rates - run.min_learning_rate) / (run.learning_rate - run.min_learning_rate)
    drift = GAP_DRIFT * rng.standard_normal() * end * np.log(tokens / tokens[-1])
    noise = np.zeros(len(steps))
    noise[0] = truth.noise * end * rng.standard_normal()
    shocks = rng.standard_normal(len(steps)) * truth.noise * end * math.sqrt(1 - truth.memory**2)
    for row in range(1, len(steps)):
        noise[row] = truth.memory * noise[row - 1] + shocks[row]
    loss = np.interp(np.log(tokens), place, drawn) + (gap + drift) * height + noise
    table = pd.DataFrame({"step": steps, "val_loss": loss, "decayed": 0})
    if branches:
        at = np.unique(np.geomspace(plan.steps / 50, plan.steps * until, branches).astype(int))
        values = np.interp(np.log(at * plan.batch_tokens), place, drawn) + BRANCH_SD * end * rng.standard_normal(
            len(at)
        )
        table = pd.concat([table, pd.DataFrame({"step": at, "val_loss": values, "decayed": 1})])
    return table
