"""Profile likelihood: how fast the objective rises as one parameter is held away from its best value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from fits.errors import UserError
from fits.fitting.fit import fit
from fits.fitting.result import Fit
from fits.html import card
from fits.laws import get_law
from fits.laws.law import Law
from fits.numbers import quantity


@dataclass(frozen=True)
class Profile:
    """Objective at held values of one parameter, and the interval where the likelihood ratio stays below its limit.

    An end is None when the profile does not reach the limit as far as it was followed: the runs do not bound the
    parameter on that side.
    """

    parameter: str
    values: np.ndarray
    objective: np.ndarray
    best: float
    limit: float
    low: float | None
    high: float | None

    def _repr_html_(self) -> str:
        ends = ["not bounded" if end is None else quantity(end) for end in (self.low, self.high)]
        return card(
            f"Profile of {self.parameter}", columns=["best", "low", "high"], rows=[[quantity(self.best), *ends]]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data; where the law allows no fit, the objective is None."""
        objective = [float(each) if np.isfinite(each) else None for each in self.objective]
        return {**asdict(self), "values": self.values.tolist(), "objective": objective}


def profile(
    law: Law | str,
    data: pd.DataFrame | Mapping[str, Any],
    parameter: str,
    *,
    points: int = 25,
    width: float = 4.0,
    level: float = 0.95,
    **settings: Any,
) -> Profile:
    """Refit with one parameter held at values around its best.

    The noise is taken as Gaussian with the fit's own scatter, so the objective should be least squares (the default
    here); Huber objectives give the profile of their own penalty, whose limit is approximate.

    Args:
        points: values tried.
        width: how many standard errors to either side; widened fourfold, twice, while an end is not found.
        settings: those of ``fits.fit``.

    Raises:
        UserError: the parameter is fixed, or the fit itself fails.
    """
    law = get_law(law) if isinstance(law, str) else law
    settings = {"objective": "log-least-squares", **settings}
    whole = fit(law, data, **{"bootstrap": 200, **settings})
    held = whole.parameters.get(parameter)
    if held is None or held.how != "fitted":
        raise UserError(f"Only a fitted parameter has a profile; '{parameter}' is not one of '{law.name}'.")
    free = sum(each.how == "fitted" for each in whole.parameters.values())
    freedom = max(whole.n_runs - free, 1)
    limit = whole.objective.value * (1 + float(chi2.ppf(level, 1)) / freedom)
    for reach in (width, 4 * width, 16 * width):
        values = _grid(whole, law, parameter, points, reach)
        objective = np.array([_held(law, data, parameter, value, whole, settings) for value in values])
        low, high = _crossings(values, objective, held.value, limit)
        if low is not None and high is not None:
            break
    return Profile(parameter, values, objective, held.value, limit, low, high)


def _grid(whole: Fit, law: Law, parameter: str, points: int, width: float) -> np.ndarray:
    best, index = whole.parameters[parameter], list(whole.parameters).index(parameter)
    if law.parameter(parameter).domain == "positive":
        reach = width * float(np.log(np.maximum(whole.draws[:, index], 1e-300)).std())
        return best.value * np.exp(np.linspace(-reach, reach, points))
    reach = width * best.standard_error
    return best.value + np.linspace(-reach, reach, points)


def _held(law: Law, data: Any, parameter: str, value: float, whole: Fit, settings: dict[str, Any]) -> float:
    fix = {**(settings.get("fix") or {}), parameter: float(value)}
    starts = {name: each.value for name, each in whole.parameters.items() if each.how == "fitted" and name != parameter}
    try:
        return fit(law, data, **{**settings, "fix": fix, "bootstrap": 0, "starts": starts}).objective.value
    except UserError:
        return float("inf")  # outside what the law allows, such as a floor above a loss


def _crossings(
    values: np.ndarray, objective: np.ndarray, best: float, limit: float
) -> tuple[float | None, float | None]:
    def crossing(order: np.ndarray) -> float | None:
        for near, far in pairwise(order):
            if objective[near] <= limit < objective[far]:
                if not np.isfinite(objective[far]):
                    return float(values[near])
                share = (limit - objective[near]) / (objective[far] - objective[near])
                return float(values[near] + share * (values[far] - values[near]))
        return None

    below = np.flatnonzero(values <= best)[::-1]
    above = np.flatnonzero(values >= best)
    return crossing(below), crossing(above)
