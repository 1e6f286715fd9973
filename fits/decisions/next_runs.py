"""Which run to buy next: the one that shrinks the interval of a decision most for each FLOP (c-optimal design)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fits.errors import UserError
from fits.fitting.result import Fit
from fits.laws.derivatives import differentiate

Decision = Callable[[np.ndarray], np.ndarray]
"""What is to be decided as a function of parameter vectors [B, p]: its logarithm or value, [B]."""

_SIZES = 2000
"""Sizes among which the best is sought, over seven decades."""
_NO_GAIN = 1e-3
"""A share of the decision's variance that is not worth a run."""


@dataclass(frozen=True)
class Candidate:
    """One run that could be bought, with what buying it is worth."""

    index: int
    cost: float
    standard_error: float
    """Of the decision, once this run is in."""
    gain: float
    """Share of the decision's variance that this run removes."""
    gain_per_cost: float


def decision_at(fit: Fit, at: Mapping[str, float]) -> Decision:
    """What is to be decided at a point, for ``next_runs``.

    Args:
        at: with ``C`` (FLOPs, when that is no variable of the law): the log of the size N that is best there, by
            C = 6 N D; the law's other variables, and ``bytes_per_token`` for a law in bytes (H), stand beside it.
            Otherwise the law's variables: the log of what it predicts.

    Raises:
        UserError: a variable is missing, unknown or not above 0, or the law has no size and data to share C among.
    """
    law, names = fit.as_law, list(fit.parameters)
    for name, value in at.items():
        if not value > 0:
            raise UserError(f"{name} is {value:g}; it must be above 0.")
    held = {name: value * fit.unit_of(name) for name, value in fit.held.items() if name not in ("N", "D", "H")}
    given = held | dict(at)
    compute = given.pop("C") if "C" not in law.variable_names and "C" in given else None
    ratio = given.pop("bytes_per_token", 1.0) if compute else 1.0
    data = "H" if "H" in law.variable_names else "D"
    shared = ["N", data] if compute else []
    wrong = sorted(set(law.variable_names) ^ {*given, *shared})
    if wrong:
        raise UserError(
            f"the decision needs {', '.join(law.variable_names)}"
            + (" (N and the data follow from C)" if compute else "")
            + f"; check {', '.join(wrong)}."
        )

    def decide(draws: np.ndarray) -> np.ndarray:
        columns = {name: draws[:, index, None] for index, name in enumerate(names)}
        if compute is None:
            point = {name: np.array([[value / fit.unit_of(name)]]) for name, value in given.items()}
            return np.log(law.evaluate(columns, point))[:, 0]
        size = np.geomspace(compute**0.5 / 1e5, compute**0.5 * 1e2, _SIZES)[None]
        shares = {"N": size / fit.unit_of("N"), data: ratio * compute / (6 * size) / fit.unit_of(data)}
        losses = np.broadcast_to(law.evaluate(columns, given | shares), (len(draws), _SIZES))
        return np.log(size[0])[np.nanargmin(losses, axis=1)]

    return decide


class _Knowledge:
    """What the draws say of parameters and decision together, as one normal distribution."""

    def __init__(self, fit: Fit, decision: Decision) -> None:
        if len(fit.draws) < 30:
            raise UserError(f"The fit has {len(fit.draws)} draws; ranking candidates needs at least 30.")
        if not fit.residual_scale > 0:
            raise UserError("The fit has no scatter, so nothing is left to learn from another run.")
        decided = decision(fit.draws)
        self.noise = fit.residual_scale**2
        self.spread = np.cov(fit.draws.T).reshape(len(fit.parameters), len(fit.parameters))
        # The decision's dependence on the parameters over the draws, by regression: it need not be smooth.
        self.with_decision = np.array([np.cov(column, decided)[0, 1] for column in fit.draws.T])
        self.variance = float(np.var(decided, ddof=1))

    def removed(self, gradient: np.ndarray) -> float:
        """Variance of the decision that a run with this gradient takes away."""
        return float(gradient @ self.with_decision) ** 2 / self._scatter(gradient)

    def learn(self, gradient: np.ndarray) -> None:
        """Take the run as done: one linear update."""
        scatter, towards = self._scatter(gradient), self.spread @ gradient
        share = float(gradient @ self.with_decision) / scatter
        self.variance = max(self.variance - share**2 * scatter, 0.0)
        self.with_decision = self.with_decision - towards * share
        self.spread = self.spread - np.outer(towards, towards) / scatter

    def _scatter(self, gradient: np.ndarray) -> float:
        return self.noise + float(gradient @ self.spread @ gradient)


def next_runs(
    fit: Fit, candidates: Sequence[Mapping[str, float]], costs: Sequence[float], decision: Decision
) -> tuple[float, list[Candidate]]:
    """Rank candidate runs by the variance of the decision that they remove for their cost.

    The draws give the parameters' covariance; a new run adds the information of its own gradient and the fit's scatter
    (one linear update, so gains of several runs do not add up: see ``choose_runs``).

    Args:
        fit: with draws.
        candidates: each run's variables, by the law's names.
        costs: FLOPs of each.
        decision: for instance the log of the loss at the target: ``lambda p: np.log(predictions)``.

    Returns:
        The decision's standard error now, and the candidates, best first.

    Raises:
        UserError: the fit has too few draws or no scatter, or candidates and costs do not match.
    """
    known, gradients = _Knowledge(fit, decision), _gradients(fit, candidates, costs)
    ranked = [
        _candidate(known, index, gradient, cost)
        for index, (gradient, cost) in enumerate(zip(gradients, costs, strict=True))
    ]
    return float(np.sqrt(known.variance)), sorted(ranked, key=lambda each: -each.gain_per_cost)


def choose_runs(
    fit: Fit,
    candidates: Sequence[Mapping[str, float]],
    costs: Sequence[float],
    decision: Decision,
    budget: float,
    *,
    most: int = 50,
) -> tuple[float, list[Candidate]]:
    """The runs to buy together: one after another the best for its cost, each given those before it.

    Args:
        budget: of all together; never exceeded.
        most: runs at most.

    Returns:
        The decision's standard error now, and the runs in the order they were chosen: each one's ``standard_error``
        and ``gain`` (of the variance left) stand after those before it.

    Raises:
        UserError: as ``next_runs``.
    """
    known, gradients = _Knowledge(fit, decision), _gradients(fit, candidates, costs)
    now, left, chosen = float(np.sqrt(known.variance)), set(range(len(candidates))), []
    while len(chosen) < most:
        affordable = [
            _candidate(known, index, gradients[index], costs[index]) for index in left if costs[index] <= budget
        ]
        best = max(affordable, key=lambda each: each.gain_per_cost, default=None)
        if best is None or best.gain < _NO_GAIN:
            break
        chosen.append(best)
        known.learn(gradients[best.index])
        budget -= best.cost
        left.remove(best.index)
    return now, chosen


def _candidate(known: _Knowledge, index: int, gradient: np.ndarray, cost: float) -> Candidate:
    left = max(known.variance - known.removed(gradient), 0.0)
    share = 1 - left / known.variance if known.variance > 0 else 0.0
    return Candidate(index, float(cost), float(np.sqrt(left)), share, share / cost)


def _gradients(fit: Fit, candidates: Sequence[Mapping[str, float]], costs: Sequence[float]) -> list[np.ndarray]:
    if len(candidates) != len(costs) or not all(cost > 0 for cost in costs):
        raise UserError("Every candidate needs a cost above 0.")
    names, in_logs = list(fit.parameters), fit.objective.name.startswith("log-")
    return [_gradient(fit, names, variables, in_logs) for variables in candidates]


def _gradient(fit: Fit, names: list[str], variables: Mapping[str, float], in_logs: bool) -> np.ndarray:
    law = fit.as_law
    missing = [name for name in law.variable_names if name not in variables]
    if missing:
        raise UserError(f"A candidate lacks {', '.join(missing)}.")
    values = {**{name: np.array([float(each)]) for name, each in variables.items()}, **fit.values}
    jet = differentiate(law.expression, values, names)
    gradient = np.array([float(np.ravel(jet.first.get(index, 0.0))[0]) for index in range(len(names))])
    return gradient / float(np.ravel(jet.value)[0]) if in_logs else gradient
