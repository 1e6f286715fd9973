"""Compute-optimal size and data for a law at a budget, what it costs to be elsewhere, and how flat the optimum is.

Everything is computed for the best coefficients and for every bootstrap draw at once, so each answer has an interval.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fits.errors import UserError
from fits.fitting.result import Fit, interval
from fits.html import card
from fits.laws.coefficients import Published
from fits.laws.law import Law

FlopsPerToken = Callable[[np.ndarray], np.ndarray]
"""Training FLOPs of one token as a function of the law's size variable."""

_GRID = 160
_GOLDEN = 0.6180339887498949


def six_n(size: np.ndarray) -> np.ndarray:
    """The common accounting: 6 FLOPs a parameter and token."""
    return 6.0 * size


@dataclass(frozen=True)
class Interval:
    """A value with its interval; the interval is the value when there are no draws."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Interval":
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Allocation:
    """The compute-optimal point at a budget; sizes are of the law's N."""

    flops: float
    size: Interval
    tokens: Interval
    tokens_per_parameter: Interval
    loss: Interval
    size_exponent: Interval
    """d log size / d log flops at the budget."""
    interior: bool
    """False when the loss is lowest at an end of the sizes searched: the law then has no optimum here."""

    def _repr_html_(self) -> str:
        named = {
            "size": self.size,
            "tokens": self.tokens,
            "tokens per parameter": self.tokens_per_parameter,
            "loss": self.loss,
            "size exponent": self.size_exponent,
        }
        return card(
            f"Compute-optimal at {self.flops:.3g} FLOPs",
            columns=["", "best", "low", "high"],
            rows=[[name, each.value, each.low, each.high] for name, each in named.items()],
            notes=[] if self.interior else ["The loss is lowest at an end of the sizes searched: no optimum here."],
        )


@dataclass(frozen=True)
class Surface:
    """A law with its coefficients (row 0 the best, the rest draws) and the accounting that ties size to tokens.

    Args:
        size: the law's size variable.
        data: the law's data variable: tokens, or what ``data_per_token`` turns tokens into (bytes).
        flops_per_token: training FLOPs of one token at a size.
        inference_tokens: tokens to be served later; each costs a third of a training token and is paid from the
            same budget (arXiv 2401.00448).
        others: the law's remaining variables.
    """

    law: Law
    coefficients: np.ndarray
    level: float
    size: str = "N"
    data: str = "D"
    data_per_token: float = 1.0
    flops_per_token: FlopsPerToken = six_n
    inference_tokens: float = 0.0
    others: Mapping[str, float] | None = None
    size_range: tuple[float, float] = (1e4, 1e15)

    def tokens(self, size: np.ndarray, flops: np.ndarray | float) -> np.ndarray:
        """Training tokens the budget pays for at a size; 0 or less when serving takes it all."""
        return flops / self.flops_per_token(size) - self.inference_tokens / 3.0

    def loss(self, log_size: np.ndarray, flops: np.ndarray | float) -> np.ndarray:
        """Loss [B, K] at log sizes [B, K] or [K]; infinite where no token is left."""
        size = np.exp(np.atleast_2d(log_size))
        tokens = self.tokens(size, flops)
        values: dict[str, Any] = {name: float(value) for name, value in (self.others or {}).items()}
        values |= {self.size: size, self.data: np.where(tokens > 0, tokens, np.nan) * self.data_per_token}
        coefficients = {
            name: self.coefficients[:, index : index + 1] for index, name in enumerate(self.law.parameter_names)
        }
        loss = np.asarray(self.law.evaluate(coefficients, values))
        return np.where(np.isfinite(loss), loss, np.inf)

    def optimum(self, flops: np.ndarray | float) -> np.ndarray:
        """The log size of least loss for every coefficient row, [B]: a grid, then golden sections."""
        grid = np.linspace(np.log(self.size_range[0]), np.log(self.size_range[1]), _GRID)
        budget = np.broadcast_to(np.asarray(flops, dtype=float), (len(self.coefficients),))[:, None]
        best = self.loss(grid, budget).argmin(axis=1)
        low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, _GRID - 1)]
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = (self.loss(each[:, None], budget)[:, 0] for each in (left, right))
        for _ in range(45):
            lower = at_left <= at_right
            high, low = np.where(lower, right, high), np.where(lower, low, left)
            fresh = np.where(lower, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
            value = self.loss(fresh[:, None], budget)[:, 0]
            left, right = np.where(lower, fresh, right), np.where(lower, left, fresh)
            at_left, at_right = np.where(lower, value, at_right), np.where(lower, at_left, value)
        return 0.5 * (low + high)

    def best_loss(self, flops: np.ndarray | float) -> np.ndarray:
        """The least loss at a budget for every coefficient row, [B]."""
        budget = np.broadcast_to(np.asarray(flops, dtype=float), (len(self.coefficients),))[:, None]
        return self.loss(self.optimum(flops)[:, None], budget)[:, 0]


def surface(
    source: Fit | Published | tuple[Law, Mapping[str, float]], *, level: float | None = None, **settings: Any
) -> Surface:
    """The surface of a fit (with its draws), a published set, or a law with coefficients.

    ``settings`` are the fields of ``Surface``; ``data`` is found among D and H unless given, ``others`` may be left out
    when the law has only a size and a data variable.

    Raises:
        UserError: the law has no size or data variable, or a remaining variable has no value.
    """
    if isinstance(source, Fit):
        law = source.as_law
        best = np.array([list(source.values.values())])
        coefficients = np.concatenate([best, source.draws])
        level = source.level if level is None else level
        size_and_data = {settings.get("size", "N"), settings.get("data", "D"), "D", "H"}
        held = {name: value for name, value in source.held.items() if name not in size_and_data}
        settings["others"] = held | dict(settings.get("others") or {})
        _in_units(source, settings)
    else:
        law, values = (source.law, source.record.coefficients) if isinstance(source, Published) else source
        coefficients = np.array([[values[name] for name in law.parameter_names]])
    names = law.variable_names
    size = settings.setdefault("size", "N")
    data = settings.setdefault("data", next((name for name in ("D", "H") if name in names), "D"))
    for name in (size, data):
        if name not in names:
            raise UserError(f"Law '{law.name}' has no variable '{name}' to allocate; it has {', '.join(names)}.")
    given = dict(settings.get("others") or {})
    missing = [name for name in names if name not in (size, data) and name not in given]
    if missing:
        raise UserError(f"Law '{law.name}' needs a value of {', '.join(missing)} to allocate compute.")
    return Surface(law, coefficients, 0.95 if level is None else level, **settings)


def _in_units(fit: Fit, settings: dict[str, Any]) -> None:
    """A law in billions of parameters or tokens, as its record says, is asked in them; FLOPs are FLOPs."""
    data = settings.get("data") or ("H" if "H" in fit.as_law.variable_names else "D")
    size_unit = fit.unit_of(settings.get("size", "N"))
    if size_unit != 1:
        settings.setdefault("flops_per_token", lambda size: six_n(size * size_unit))
        settings.setdefault("size_range", tuple(end / size_unit for end in Surface.size_range))
    if fit.unit_of(data) != 1:
        settings["data_per_token"] = settings.get("data_per_token", 1.0) / fit.unit_of(data)


def optimal_allocation(at: Surface, flops: float) -> Allocation:
    """The size and tokens of least loss at a budget, with intervals.

    Raises:
        UserError: the budget is not above zero, or no size leaves a token to train on.
    """
    _check(flops)
    step = 0.05
    below, here, above = (at.optimum(flops * np.exp(shift)) for shift in (-step, 0.0, step))
    size = np.exp(here)
    tokens = at.tokens(size, flops)
    loss = at.best_loss(flops)
    if not np.isfinite(loss[0]):
        raise UserError(f"A budget of {flops:g} FLOPs leaves nothing to train on; raise it or lower inference_tokens.")
    low, high = np.log(at.size_range)
    inside = bool(low + 0.3 < here[0] < high - 0.3)
    return Allocation(
        flops=float(flops),
        size=spread(size, at.level),
        tokens=spread(tokens, at.level),
        tokens_per_parameter=spread(tokens / size, at.level),
        loss=spread(loss, at.level),
        size_exponent=spread((above - below) / (2 * step), at.level),
        interior=inside,
    )


def regret(at: Surface, size: float, flops: float) -> Interval:
    """The share of the budget wasted by training at this size: 0.04 is the loss of an optimum at 1/1.04 of the compute.

    Infinite where the size cannot reach any optimum's loss.
    """
    _check(flops)
    loss = at.loss(np.log(np.array([size])), flops)[:, 0]
    low, high = np.full(len(loss), np.log(flops) - 14.0), np.full(len(loss), np.log(flops))
    for _ in range(40):
        middle = 0.5 * (low + high)
        short = at.best_loss(np.exp(middle)) > loss  # too little compute to be as good
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return spread(np.where(np.isfinite(loss), flops / np.exp(high) - 1.0, np.inf), at.level)


def flat_region(at: Surface, flops: float, *, waste: float = 0.01) -> tuple[Interval, Interval]:
    """The smallest and the largest size that waste at most this share of the compute."""
    _check(flops)
    if not waste > 0:
        raise UserError(f"waste is {waste}; give a share above 0, such as 0.01.")
    best = at.optimum(flops)
    limit = at.best_loss(flops / (1.0 + waste))
    budget = np.full((len(best), 1), float(flops))
    ends = []
    for edge in np.log(at.size_range):
        inner, outer = best.copy(), np.full(len(best), edge)
        for _ in range(60):
            middle = 0.5 * (inner + outer)
            inside = at.loss(middle[:, None], budget)[:, 0] <= limit
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        ends.append(spread(np.exp(inner), at.level))
    return ends[0], ends[1]


def spread(values: np.ndarray, level: float) -> Interval:
    """The first value with the interval of the others."""
    if len(values) < 3:
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    low, high = interval(values[1:], level)
    return Interval(float(values[0]), float(low), float(high))


def _check(flops: float) -> None:
    if not (np.isfinite(flops) and flops > 0):
        raise UserError(f"The budget is {flops} FLOPs; it must be a number above 0.")
