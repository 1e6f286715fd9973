"""Compute-optimal sizes without a loss law: IsoFLOP minima (approach 2) and the lower envelope (approach 1).

arXiv 2203.15556, sections 3.1 and 3.2; the interpolation follows arXiv 2406.19146 (Akima in log size) or a parabola.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from fits.allocate import Interval, spread
from fits.errors import UserError
from fits.html import card, number

Method = Literal["parabola", "akima"]
_FINE = 25  # points between two sizes when the minimum is looked for
_ENVELOPE_LEVELS = 60


@dataclass(frozen=True)
class Minimum:
    """The best size at one budget."""

    flops: float
    size: float
    tokens: float
    loss: float
    interior: bool
    """False when the lowest loss is at the smallest or largest size tried."""


@dataclass(frozen=True)
class Frontier:
    """Optimal size as a power of compute, N* = coefficient * C ** exponent, with intervals from resampled runs."""

    approach: str
    minima: list[Minimum]
    coefficient: Interval
    exponent: Interval
    draws: np.ndarray
    """[B, 2] of log coefficient and exponent; row 0 is the fit itself."""
    level: float

    def _repr_html_(self) -> str:
        a, b = self.coefficient, self.exponent
        return card(
            self.approach,
            about=f"size = {number(a.value)} C^{b.value:.3f}, exponent {b.low:.3f} to {b.high:.3f}",
            columns=["FLOP", "best size", "tokens", "loss", ""],
            rows=[
                [each.flops, each.size, each.tokens, each.loss, "" if each.interior else "at the edge"]
                for each in self.minima
            ],
        )

    def size(self, flops: float) -> Interval:
        """The optimal size at a budget."""
        return spread(np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(flops)), self.level)

    def tokens(self, flops: float) -> Interval:
        """The optimal tokens at a budget, C / 6 N."""
        return spread(flops / 6 / np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(flops)), self.level)


def isoflop_minima(
    flops: np.ndarray, size: np.ndarray, loss: np.ndarray, *, method: Method = "parabola"
) -> list[Minimum]:
    """The size of least loss within each group of equal budget.

    Args:
        flops: each run's budget [n]; rows of one group must be equal to 1 %.
        size: parameters [n].
        loss: [n].
        method: a parabola in log size through all of a group's runs, or Akima interpolation through them.

    Raises:
        UserError: no group has the runs it takes (3 for a parabola, 5 for Akima).
    """
    groups = np.round(np.log(flops) / 0.01).astype(int)
    minima = []
    for group in np.unique(groups):
        chosen = groups == group
        sizes, index = np.unique(size[chosen], return_inverse=True)
        mean = np.bincount(index, loss[chosen]) / np.bincount(index)  # repeats of one size are averaged
        found = _minimum(np.log(sizes), mean, method)
        if found is not None:
            best, least, interior = found
            budget = float(np.exp(np.log(flops[chosen]).mean()))
            minima.append(Minimum(budget, float(np.exp(best)), budget / 6 / float(np.exp(best)), least, interior))
    if not minima:
        raise UserError(
            f"No budget has {_least(method)} different sizes; IsoFLOP minima need several runs at equal FLOPs."
        )
    return minima


def _least(method: Method) -> int:
    return 3 if method == "parabola" else 5


def _minimum(log_size: np.ndarray, loss: np.ndarray, method: Method) -> tuple[float, float, bool] | None:
    if len(log_size) < _least(method):
        return None
    low, high = log_size[0], log_size[-1]
    if method == "parabola":
        curvature, slope, _ = coefficients = np.polyfit(log_size - log_size.mean(), loss, 2)
        if curvature <= 0:
            return None
        place = -slope / (2 * curvature)
        best = float(np.clip(place + log_size.mean(), low, high))
        return best, float(np.polyval(coefficients, best - log_size.mean())), bool(low < best < high)
    grid = np.linspace(low, high, _FINE * len(log_size))
    curve = np.exp(Akima1DInterpolator(log_size, np.log(loss))(grid))
    place = int(curve.argmin())
    return float(grid[place]), float(curve[place]), bool(0 < place < len(grid) - 1)


def isoflop_frontier(
    flops: np.ndarray,
    size: np.ndarray,
    loss: np.ndarray,
    *,
    method: Method = "parabola",
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Frontier:
    """Approach 2: a power law through the interior IsoFLOP minima; runs are redrawn within each budget for intervals.

    Raises:
        UserError: fewer than two budgets have an interior minimum.
    """
    minima = isoflop_minima(flops, size, loss, method=method)
    best = _line([each for each in minima if each.interior])
    if best is None:
        raise UserError("Fewer than two budgets have their best size inside the sizes tried; add runs beside the ends.")
    rng = np.random.default_rng(seed)
    groups = np.round(np.log(flops) / 0.01).astype(int)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = [best]
    for _ in range(bootstrap):
        rows = np.concatenate([rng.choice(each, len(each)) for each in members])
        try:
            again = isoflop_minima(flops[rows], size[rows], loss[rows], method=method)
        except UserError:
            continue
        line = _line([each for each in again if each.interior])
        if line is not None:
            draws.append(line)
    return _frontier("IsoFLOP minima", minima, draws, level)


def envelope_frontier(
    flops: np.ndarray,
    size: np.ndarray,
    loss: np.ndarray,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Frontier:
    """Approach 1: a power law through the sizes whose runs (or checkpoints) have the least loss at their compute.

    Whole sizes are redrawn for intervals, since the checkpoints of one run move together.

    Raises:
        UserError: fewer than three sizes reach the envelope.
    """
    minima = _envelope(flops, size, loss)
    best = _line(minima)
    if best is None or len({each.size for each in minima}) < 3:
        raise UserError("Fewer than three sizes reach the lower envelope; add checkpoints or sizes.")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(size == each) for each in np.unique(size)]
    draws = [best]
    for _ in range(bootstrap):
        rows = np.concatenate([members[index] for index in rng.integers(0, len(members), len(members))])
        line = _line(_envelope(flops[rows], size[rows], loss[rows]))
        if line is not None:
            draws.append(line)
    return _frontier("envelope", minima, draws, level)


def _envelope(flops: np.ndarray, size: np.ndarray, loss: np.ndarray) -> list[Minimum]:
    """The best size at log-spaced budgets, each size's loss interpolated in log compute."""
    curves = []
    for each in np.unique(size):
        order = np.argsort(flops[size == each], kind="stable")
        x, y = np.log(flops[size == each])[order], np.log(loss[size == each])[order]
        x, index = np.unique(x, return_index=True)
        if len(x) > 1:
            curves.append((float(each), x, y[index]))
    if not curves:
        return []
    low, high = min(x[0] for _, x, _ in curves), max(x[-1] for _, x, _ in curves)
    found = []
    for level in np.linspace(low, high, _ENVELOPE_LEVELS):
        here = [(np.interp(level, x, y), each) for each, x, y in curves if x[0] <= level <= x[-1]]
        if not here:
            continue
        least, best = min(here)
        if best in (here[0][1], here[-1][1]):
            continue  # the smallest or largest size there is: a better one may lie outside
        found.append(Minimum(float(np.exp(level)), best, float(np.exp(level)) / 6 / best, float(np.exp(least)), True))
    return found


def _line(minima: list[Minimum]) -> tuple[float, float] | None:
    """log coefficient and exponent of size against compute."""
    x = np.log([each.flops for each in minima])
    if len(x) < 2 or np.ptp(x) < 1e-6:
        return None
    exponent, constant = np.polyfit(x - x.mean(), np.log([each.size for each in minima]), 1)
    return float(constant - exponent * x.mean()), float(exponent)


def _frontier(approach: str, minima: list[Minimum], draws: list[tuple[float, float]], level: float) -> Frontier:
    array = np.array(draws)
    return Frontier(approach, minima, spread(np.exp(array[:, 0]), level), spread(array[:, 1], level), array, level)
