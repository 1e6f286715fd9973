"""How well a law describes its runs: residuals against the noise between seeds, and convergence in words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fits import Fit
from fits.tables.runs import column_values
from scaling.report.numbers import quantity, whole
from scaling.report.points import RunPoint

_ALL_BUT_SEED = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_experts",
    "experts_per_token",
    "expert_ffn_size",
    "tokens",
    "learning_rate",
    "batch_tokens",
)
"""Runs that agree in all of these differ in their seed alone."""
_SHARP, _SINGULAR = 1e4, 1e8


@dataclass(frozen=True)
class Agreement:
    """A law beside the runs: ``predicted`` and ``residuals`` = log(measured / predicted) have shape [runs]."""

    points: list[RunPoint]
    predicted: np.ndarray
    residuals: np.ndarray

    @property
    def scatter(self) -> float:
        """Root mean square of the residuals, a fraction."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def worst(self) -> str:
        """Name of the run that the law misses by most."""
        return self.points[int(np.argmax(np.abs(self.residuals)))].run_id


def agreement(fit: Fit, table: pd.DataFrame, points: list[RunPoint]) -> Agreement:
    """Compare a law with the runs of a table, ``points`` being its rows.

    Raises:
        UserError: the table lacks a column that the law is bound to.
    """
    variables = {name: column_values(table, text) for name, text in fit.bind.items()}
    predicted = np.asarray(fit.predict(**variables))
    measured = np.array([each.measured for each in points])
    return Agreement(points, predicted, np.log(measured / predicted))


@dataclass(frozen=True)
class Noise:
    """Spread of one run between seeds."""

    relative: float
    """Standard deviation of the logarithm of the loss, pooled over the repeated runs."""
    runs: int
    groups: int


def seed_noise(table: pd.DataFrame, response: str) -> Noise | None:
    """The noise of one run, from runs that differ in their seed alone; None when there are none."""
    same = [name for name in _ALL_BUT_SEED if name in table.columns]
    if "seed" not in table.columns or not same:
        return None
    values = pd.Series(np.log(column_values(table, response)), index=table.index)
    squares, freedom, runs, groups = 0.0, 0, 0, 0
    for _, group in table.groupby(same):
        if len(set(group["seed"])) > 1:
            logs = np.asarray(values[group.index])
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(logs) - 1
            runs += len(logs)
            groups += 1
    return Noise((squares / freedom) ** 0.5, runs, groups) if freedom else None


def convergence_in_words(fit: Fit) -> Iterator[str]:
    """The facts of the search, each with what it means."""
    facts = fit.convergence
    yield (
        ("Converged" if facts.converged else "Not converged")
        + f": the largest derivative of the objective at the end is {quantity(facts.gradient_norm)}."
    )
    yield (
        f"{facts.starts_at_best} of {facts.starts} descents reached this optimum"
        + (f", from the best of {whole(facts.screened)} starts that were screened" if facts.screened else "")
        + f"; it lies {quantity(facts.distance_from_start)} away from its start, in logarithms of the parameters."
    )
    yield _condition(facts.condition_number)
    edges = ((facts.at_bound, "where they have no effect"), (facts.at_start, "at their start"))
    if not facts.at_bound and not facts.at_start:
        yield "No parameter sits at a bound or where its search began."
    for names, where in edges:
        if names:
            yield f"{', '.join(names)} ended {where}: read no meaning into the value."
    resamples, kind = fit.bootstrap.requested, fit.bootstrap.kind
    failed = f"; {fit.bootstrap.failed} of them failed" if fit.bootstrap.failed else ""
    yield f"Intervals: {fit.level:.0%}, from {whole(resamples)} {kind} bootstrap fits ({fit.bootstrap.reason}){failed}."


def _condition(number: float | None) -> str:
    if number is None or number > _SINGULAR:
        shown = "infinite" if number is None else quantity(number)
        return f"Condition number {shown}: some parameters trade off and cannot be told apart by these runs."
    meaning = (
        "parameters are correlated; trust predictions more than single values"
        if number > _SHARP
        else "the parameters can be told apart"
    )
    return f"Condition number {quantity(number)}: {meaning}."
