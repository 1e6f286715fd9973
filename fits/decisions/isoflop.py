"""Compute-optimal sizes without a loss law: IsoFLOP minima (approach 2) and the lower envelope (approach 1).

arXiv 2203.15556, sections 3.1 and 3.2; the interpolation follows arXiv 2406.19146 (Akima in log size) or a parabola.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from fits.decisions.allocation import Interval, spread
from fits.errors import UserError
from fits.html import card
from fits.numbers import quantity

Method = Literal["parabola", "akima"]
_FINE = 25  # points between two sizes when the minimum is looked for
_ENVELOPE_LEVELS = 60
# Widths in ln C. Runs this close are at one budget whatever stands beside them: it moves the loss by about 0.05 %.
_EQUAL = 0.01
# Whole steps spread a slice by one step in its shortest run, 5 % at 20 steps; twice that is still one slice, if the
# next budget is further off than where sizes and tokens of a grid happen to meet (one such place in four grids).
_SPREAD = 0.10
_APART = 5
_SAID = 4  # budgets left out that a sentence names before it counts the rest


@dataclass(frozen=True)
class Minimum:
    """The best size at one budget."""

    flops: float
    size: float
    tokens: float
    loss: float
    interior: bool
    """False when the lowest loss is at the smallest or largest size tried."""
    runs: int
    """How many runs it rests on: those of its slice, or the sizes that an envelope compares at this compute."""


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
    left_out: tuple[str, ...] = ()
    """The budgets that the line does not pass through and why, a sentence each."""

    def _repr_html_(self) -> str:
        a, b = self.coefficient, self.exponent
        return card(
            self.approach,
            about=f"size = {quantity(a.value)} C^{b.value:.3f}, exponent {b.low:.3f} to {b.high:.3f}",
            columns=["FLOP", "best size", "tokens", "loss", "runs", ""],
            rows=[
                [each.flops, each.size, each.tokens, each.loss, each.runs, "" if each.interior else "at the edge"]
                for each in self.minima
            ],
            notes=_shortened(self.left_out),
        )

    def size(self, flops: float) -> Interval:
        """The optimal size at a budget."""
        return spread(np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(flops)), self.level)

    def tokens(self, flops: float) -> Interval:
        """The optimal tokens at a budget, C / 6 N."""
        return spread(flops / 6 / np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(flops)), self.level)


def slices(flops: np.ndarray) -> np.ndarray:
    """The IsoFLOP slice of each run: which runs were trained at one budget, told by the gaps between budgets.

    Runs within 1 % of each other are one slice. So are runs within 10 % that stand apart: the gap to the next budget on
    either side is at least five times their own spread. Everything else is parted at its largest gap. Only ratios of
    FLOPs count, so that a factor on all of them changes nothing.

    Args:
        flops: each run's compute [n], in any unit.

    Returns:
        Slice numbers [n], from 0 in order of budget; a run alone at its budget is a slice too.

    Raises:
        UserError: a value is not a number above 0.
    """
    flops = np.asarray(flops, dtype=float)
    wrong = np.flatnonzero(~(np.isfinite(flops) & (flops > 0)))
    if len(wrong):
        raise UserError(f"FLOPs of run {wrong[0]} are {flops[wrong[0]]:g}; they must be a number above 0.")
    order = np.argsort(flops)
    x = np.log(flops[order])
    gaps = np.diff(x)
    outside = [np.inf, *gaps.tolist(), np.inf]  # outside[i] is the gap below run i

    def one_budget(start: int, stop: int) -> bool:
        width = x[stop - 1] - x[start]
        return width <= _EQUAL or (width <= _SPREAD and _APART * width <= min(outside[start], outside[stop]))

    bounds = [0, len(x)]
    # Rounded, so that gaps equal but for the last digit are taken in one order, whatever the unit.
    for cut in (np.argsort(-gaps.round(9), kind="stable") + 1).tolist():
        place = bisect(bounds, cut)
        if not one_budget(bounds[place - 1], bounds[place]):
            bounds.insert(place, cut)
    numbers = np.empty(len(x), dtype=int)
    numbers[order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return numbers


def isoflop_minima(
    flops: np.ndarray, size: np.ndarray, loss: np.ndarray, *, method: Method = "parabola"
) -> list[Minimum]:
    """The size of least loss within each group of equal budget.

    Args:
        flops: each run's budget [n]; ``slices`` tells which runs are at one budget.
        size: parameters [n].
        loss: [n].
        method: a parabola in log size through all of a slice's runs, or Akima interpolation through them.

    Raises:
        UserError: no slice has the sizes it takes (3 for a parabola, 5 for Akima) or curves upward.
    """
    minima, left_out = _minima(slices(flops), flops, size, loss, method)
    if not minima:
        why = "No budget has a minimum, which takes several sizes at equal FLOPs"
        raise UserError(f"{with_left_out(why, left_out)}.")
    return minima


def with_left_out(text: str, left_out: Sequence[str]) -> str:
    """A sentence that ends in the budgets left out, if any."""
    return f"{text}; left out: {'; '.join(_shortened(left_out))}" if left_out else text


def _shortened(left_out: Sequence[str]) -> list[str]:
    more = len(left_out) - _SAID
    return [*left_out[:_SAID], *([f"and {more} more"] if more > 0 else [])]


def _minima(
    slice_of: np.ndarray, flops: np.ndarray, size: np.ndarray, loss: np.ndarray, method: Method
) -> tuple[list[Minimum], list[str]]:
    """The minimum of each slice, and which slices have none inside their sizes and why."""
    minima, left_out = [], []
    for each in np.unique(slice_of):
        chosen = slice_of == each
        budget = float(np.exp(np.log(flops[chosen]).mean()))
        sizes, index = np.unique(size[chosen], return_inverse=True)
        mean = np.bincount(index, loss[chosen]) / np.bincount(index)  # repeats of one size are averaged
        found = _minimum(np.log(sizes), mean, method)
        if isinstance(found, str):
            left_out.append(f"{budget:.3g} FLOPs: {found}")
            continue
        log_size, least, interior = found
        best = float(np.exp(log_size))
        minima.append(Minimum(budget, best, budget / 6 / best, least, interior, int(chosen.sum())))
        if not interior:
            end = "smallest" if best < float(np.sqrt(sizes[0] * sizes[-1])) else "largest"
            left_out.append(f"{budget:.3g} FLOPs: the {end} of {len(sizes)} sizes is the best")
    return minima, left_out


def _least(method: Method) -> int:
    return 3 if method == "parabola" else 5


def _minimum(log_size: np.ndarray, loss: np.ndarray, method: Method) -> tuple[float, float, bool] | str:
    """Log size and loss of the minimum and whether it is inside, or why there is none."""
    if len(log_size) < _least(method):
        return f"{_least(method)} different sizes are needed, {len(log_size)} found"
    low, high = log_size[0], log_size[-1]
    if method == "parabola":
        curvature, slope, _ = coefficients = np.polyfit(log_size - log_size.mean(), loss, 2)
        if curvature <= 0:
            return f"the loss does not curve upward over its {len(log_size)} sizes"
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
    slice_of = slices(flops)
    minima, left_out = _minima(slice_of, flops, size, loss, method)
    best = _line([each for each in minima if each.interior])
    if best is None:
        why = "Fewer than two budgets have their best size inside the sizes tried: add runs beside the ends"
        raise UserError(f"{with_left_out(why, left_out)}.")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(slice_of == each) for each in np.unique(slice_of)]
    draws = [best]
    for _ in range(bootstrap):
        rows = np.concatenate([rng.choice(each, len(each)) for each in members])
        again, _ = _minima(slice_of[rows], flops[rows], size[rows], loss[rows], method)
        line = _line([each for each in again if each.interior])
        if line is not None:
            draws.append(line)
    return _frontier("IsoFLOP minima", minima, draws, level, left_out)


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
        budget = float(np.exp(level))
        found.append(Minimum(budget, best, budget / 6 / best, float(np.exp(least)), True, len(here)))
    return found


def _line(minima: list[Minimum]) -> tuple[float, float] | None:
    """log coefficient and exponent of size against compute."""
    x = np.log([each.flops for each in minima])
    if len(x) < 2 or np.ptp(x) < 1e-6:
        return None
    exponent, constant = np.polyfit(x - x.mean(), np.log([each.size for each in minima]), 1)
    return float(constant - exponent * x.mean()), float(exponent)


def _frontier(
    approach: str,
    minima: list[Minimum],
    draws: list[tuple[float, float]],
    level: float,
    left_out: Sequence[str] = (),
) -> Frontier:
    array = np.array(draws)
    coefficient, exponent = spread(np.exp(array[:, 0]), level), spread(array[:, 1], level)
    return Frontier(approach, minima, coefficient, exponent, array, level, tuple(left_out))
