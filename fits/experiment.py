"""Which run to buy next: the one that shrinks the interval of a decision most for each FLOP (c-optimal design)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fits.derivatives import differentiate
from fits.errors import UserError
from fits.result import Fit

Decision = Callable[[np.ndarray], np.ndarray]
"""What is to be decided as a function of parameter vectors [B, p]: its logarithm or value, [B]."""


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


def next_runs(
    fit: Fit, candidates: Sequence[Mapping[str, float]], costs: Sequence[float], decision: Decision
) -> tuple[float, list[Candidate]]:
    """Rank candidate runs by the variance of the decision that they remove for their cost.

    The draws give the parameters' covariance; a new run adds the information of its own gradient and the fit's scatter
    (one linear update, so gains of several runs do not add up).

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
    if len(fit.draws) < 30:
        raise UserError(f"The fit has {len(fit.draws)} draws; ranking candidates needs at least 30.")
    if len(candidates) != len(costs) or not all(cost > 0 for cost in costs):
        raise UserError("Every candidate needs a cost above 0.")
    if not fit.residual_scale > 0:
        raise UserError("The fit has no scatter, so nothing is left to learn from another run.")
    names = list(fit.parameters)
    spread = np.cov(fit.draws.T).reshape(len(names), len(names))
    decided = decision(fit.draws)
    # The decision's dependence on the parameters over the draws, by regression: it need not be smooth.
    with_decision = np.array([np.cov(column, decided)[0, 1] for column in fit.draws.T])
    variance = float(np.var(decided, ddof=1))
    in_logs = fit.objective.name.startswith("log-")
    ranked = []
    for index, (variables, cost) in enumerate(zip(candidates, costs, strict=True)):
        gradient = _gradient(fit, names, variables, in_logs)
        noise = fit.residual_scale**2 + float(gradient @ spread @ gradient)
        removed = float(gradient @ with_decision) ** 2 / noise
        left = max(variance - removed, 0.0)
        share = 1 - left / variance if variance > 0 else 0.0
        ranked.append(Candidate(index, float(cost), float(np.sqrt(left)), share, share / cost))
    return float(np.sqrt(variance)), sorted(ranked, key=lambda each: -each.gain_per_cost)


def _gradient(fit: Fit, names: list[str], variables: Mapping[str, float], in_logs: bool) -> np.ndarray:
    law = fit.as_law
    missing = [name for name in law.variable_names if name not in variables]
    if missing:
        raise UserError(f"A candidate lacks {', '.join(missing)}.")
    values = {**{name: np.array([float(each)]) for name, each in variables.items()}, **fit.values}
    jet = differentiate(law.expression, values, names)
    gradient = np.array([float(np.ravel(jet.first.get(index, 0.0))[0]) for index in range(len(names))])
    return gradient / float(np.ravel(jet.value)[0]) if in_logs else gradient
