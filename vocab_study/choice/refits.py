"""Intervals of the published vocabulary predictors: refits to resampled curves of their own public runs.

``tao_draws.csv`` is made by ``benchmarks/vocabulary/tao_intervals.py``; draw 0 of a predictor is the fit to all runs.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LEVEL = 0.9
WIDEST = 20.0
"""An interval whose ends are further apart than this factor says that nothing is known."""
_GRID = np.linspace(6 * math.log(2), 26 * math.log(2), 4001)
"""ln of the sizes among which a loss law's minimum is looked for."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Central interval over the draws."""

    low: int
    high: int
    level: float
    inside: float
    """Share of the draws that have a best size at all; the others count as the end they run to."""

    @property
    def identified(self) -> bool:
        return self.inside >= self.level and self.high <= WIDEST * self.low


@cache
def _draws() -> dict[str, pd.DataFrame]:
    table = pd.read_csv(Path(__file__).parent / "tao_draws.csv")
    return {str(name): rows.dropna(axis="columns") for name, rows in table.groupby("predictor")}


def fitted_to_all(predictor: str) -> dict[str, float]:
    """The coefficients of draw 0."""
    return {str(name): float(value) for name, value in _draws()[predictor].iloc[0, 2:].items()}


def best_sizes(predictor: str, params: float, hidden_size: float, flops: float) -> tuple[Floats, NDArray[np.bool_]]:
    """The best size under every draw, and whether it is a minimum and not the end of the sizes looked at.

    Args:
        predictor: ``tao-isoflop``, ``tao-derivative``, ``tao-loss``, ``tao-loss-corrected``, ``tao-direct`` (a parabola
            of the unigram-normalised loss for each model) or ``tao-direct-bits`` (the same in bits per character).
        params: N, parameters outside the vocabulary.
        hidden_size: d.
        flops: training FLOPs, for the loss laws.
    """
    draws: Any = _draws()[predictor].iloc[1:]
    if predictor == "tao-isoflop":
        budget = (params / np.exp(draws["K1"])) ** 2
        sizes = np.exp(draws["K2"]) * budget ** draws["p"] / hidden_size
    elif predictor == "tao-derivative":
        sizes = draws["V0"] * (params / draws["N0"]) ** draws["gamma"] / hidden_size
    elif predictor.startswith("tao-direct"):
        sizes = draws["coefficient"] * params ** draws["gamma"] / hidden_size
    else:
        return least_loss(draws, params, hidden_size, flops)
    return sizes.to_numpy(), np.ones(len(sizes), dtype=bool)


def least_loss(draws: Any, params: float, hidden_size: float, flops: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Where dL/d ln V turns from falling to rising at fixed F = 6 (N + V d) D (arXiv 2407.13623, section 3.3)."""
    matrices = np.exp(_GRID) * hidden_size
    tokens = flops / (6 * (params + matrices)) / 1e9
    a2, size, b, data = (draws[name].to_numpy()[:, None] for name in ("a2", "A2", "b", "B"))
    with np.errstate(over="ignore"):  # a draw whose exponent is absurd has an infinite slope, which is right
        slope = b * data * tokens**-b * matrices / (params + matrices) - a2 * size * (matrices / 1e6) ** -a2
    turns = (slope[:, :-1] < 0) & (slope[:, 1:] >= 0)
    first = np.where(turns.any(axis=1), turns.argmax(axis=1), np.where(slope[:, 0] > 0, 0, len(_GRID) - 1))
    return np.exp(_GRID[first]), turns.any(axis=1)


def interval_of(predictor: str, params: float, hidden_size: float, flops: float, level: float = LEVEL) -> Interval:
    """The interval of a predictor's best size (arguments as ``best_sizes``)."""
    sizes, inside = best_sizes(predictor, params, hidden_size, flops)
    low, high = np.quantile(sizes, [(1 - level) / 2, (1 + level) / 2])
    return Interval(round(low), round(high), level, float(inside.mean()))
