"""Leave the largest out: fit below a compute cut, predict above it, at every cut; and compare laws by that score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fits.errors import UserError
from fits.fitting.fit import fit
from fits.html import card
from fits.laws import get_law
from fits.laws.expression import as_written
from fits.laws.law import Law
from fits.progress import Progress, unwatched
from fits.tables.binding import bind_table, flops_column
from fits.tables.runs import column_values, usable_runs

_CUTS = 6
_LEVELS = 3  # distinct compute levels below the first cut


@dataclass(frozen=True)
class Cut:
    """One cut: fitted on the runs at or below ``flops``, judged on those above. Errors are of the logarithm."""

    flops: float
    fitted: int
    predicted: int
    decades: float
    """From the cut to the largest run."""
    error: float
    """Root mean square error above the cut."""
    bias: float
    """Mean of log prediction less log loss: above 0 is too pessimistic."""
    next_error: float
    """Root mean square error on the next compute level alone."""


@dataclass(frozen=True)
class Score:
    """A law's backtest and, beside it, its fit to all runs."""

    law: str
    parameters: int
    error: float
    """Root mean square error over all cuts' predictions."""
    in_sample: float
    aic: float
    bic: float
    cuts: list[Cut]

    def _repr_html_(self) -> str:
        return card(
            self.law,
            about=f"{self.parameters} parameters; beyond its runs {self.error:.2%}, in sample {self.in_sample:.2%}",
            columns=["fitted up to, FLOP", "runs", "predicted", "decades beyond", "error", "bias"],
            rows=[
                [each.flops, each.fitted, each.predicted, each.decades, f"{each.error:.2%}", f"{each.bias:+.2%}"]
                for each in self.cuts
            ],
        )


def run_compute(
    law: Law, data: pd.DataFrame | Mapping[str, Any], compute: str | None, *, units: float = 1.0, **binding: Any
) -> np.ndarray:
    """Training FLOPs of every row: the column or expression given, the table's own, the law's C, or 6 N D.

    ``units`` is what one N times one D counts when they are in billions, say.

    Raises:
        UserError: none of these is there.
    """
    frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame(dict(data))
    if compute is not None:
        return column_values(frame, compute)
    flops = flops_column(frame)
    if flops is not None:
        return column_values(frame, as_written(flops))
    bound = bind_table(law, frame, **binding)
    if "C" in bound.variables:
        return bound.variables["C"]
    if {"N", "D"} <= set(bound.variables):
        return 6 * units * bound.variables["N"] * bound.variables["D"]
    raise UserError(f"A backtest of '{law.name}' needs each run's compute; name its column or expression.")


def backtest(
    law: Law | str,
    data: pd.DataFrame,
    *,
    compute: str | None = None,
    objective: str = "log-huber",
    progress: Progress = unwatched,
    **settings: Any,
) -> Score:
    """Score a law by what it predicts beyond its data. ``settings`` are those of ``fits.fit``.

    Raises:
        UserError: the runs span too little compute to leave any out.
    """
    law = get_law(law) if isinstance(law, str) else law
    data, _ = usable_runs(data)
    whole = fit(law, data, **settings, bootstrap=0, objective=objective)
    # Whatever was bound or fixed by itself for all of the runs stays so for a part of them.
    fixed = {name: each.value for name, each in whole.parameters.items() if each.how == "fixed"}
    bound = {"bind": whole.bind, "loss": whole.data.loss, "fix": fixed}
    settings = {**settings, **bound, "bootstrap": 0, "objective": objective}
    binding = {key: settings[key] for key in ("bind", "loss", "source", "duplicates") if key in settings}
    units = whole.unit_of("N") * whole.unit_of("D")
    flops = run_compute(law, data, compute, units=units, **binding)
    free = sum(each.how == "fitted" for each in whole.parameters.values())
    cuts, levels = [], _cuts(flops, free)
    for done, cut in enumerate(levels, start=1):
        progress(done, len(levels) + 1)
        below = flops <= cut * (1 + 1e-9)
        try:
            fitted = fit(law, data.loc[below], **_rows(settings, below))
        except UserError:
            continue  # too few distinct runs below this cut for this law
        if sum(each.how == "fitted" for each in fitted.parameters.values()) < free:
            continue  # a variable does not change below this cut
        cuts.append(_judge(fitted.values, law, data, flops, below, cut, binding))
    progress(len(levels) + 1, len(levels) + 1)
    if not cuts:
        raise UserError(
            f"No compute cut leaves enough runs to fit the {free} parameters of '{law.name}' and some to predict."
        )
    residual = _errors(whole.values, law, data, binding)
    count, spread = len(residual), float((residual**2).mean())
    likelihood = count * np.log(max(spread, 1e-300))
    weighted = sum(cut.error**2 * cut.predicted for cut in cuts) / sum(cut.predicted for cut in cuts)
    return Score(
        law=law.name,
        parameters=free,
        error=float(np.sqrt(weighted)),
        in_sample=float(np.sqrt(spread)),
        aic=float(likelihood + 2 * free),
        bic=float(likelihood + free * np.log(count)),
        cuts=cuts,
    )


def compare_laws(
    laws: Sequence[Law | str], data: pd.DataFrame, *, progress: Progress = unwatched, **settings: Any
) -> tuple[list[Score], list[str]]:
    """Laws by backtest, best first, with a warning when the best in sample is not the best beyond it.

    ``settings`` are those of ``backtest``; each law takes of ``bind``, ``fix``, ``tie`` and ``starts`` what it has.
    """
    chosen = [get_law(law) if isinstance(law, str) else law for law in laws]
    scores = []
    for index, law in enumerate(chosen):
        within = partial(_within, progress, index, len(chosen))
        scores.append(backtest(law, data, progress=within, **_of_law(settings, law)))
    scores.sort(key=lambda score: score.error)
    best, favourite = scores[0], min(scores, key=lambda score: score.aic)
    warnings = []
    if favourite.law != best.law and favourite.parameters > best.parameters:
        warnings.append(
            f"'{favourite.law}' fits best in sample, but '{best.law}', with {best.parameters} parameters instead of "
            f"{favourite.parameters}, predicts larger runs better (error {best.error:.2%} against "
            f"{favourite.error:.2%})."
        )
    return scores, warnings


def _within(progress: Progress, law: int, laws: int, done: int, total: int) -> None:
    """Progress of one law as progress of all, in hundredths of a law."""
    progress(100 * law + 100 * done // total, 100 * laws)


def _of_law(settings: Mapping[str, Any], law: Law) -> dict[str, Any]:
    parameters = {*law.parameter_names}
    known = {"bind": {*law.variable_names, "loss"}, "fix": parameters, "tie": parameters, "starts": parameters}
    return {
        key: {name: each for name, each in value.items() if name in known[key]}
        if key in known and isinstance(value, Mapping)
        else value
        for key, value in settings.items()
    }


def _cuts(flops: np.ndarray, free: int) -> list[float]:
    """Compute levels with more runs than parameters at or below and some above, at most a handful, evenly spread."""
    levels = np.unique(10 ** np.round(np.log10(flops), 2))
    usable = [
        float(level)
        for level in levels[_LEVELS - 1 :]
        if (flops <= level * 1.02).sum() >= free + 2 and (flops > level * 1.02).any()
    ]
    if len(usable) > _CUTS:
        usable = [usable[index] for index in np.linspace(0, len(usable) - 1, _CUTS).round().astype(int)]
    return [level * 1.02 for level in usable]


def _rows(settings: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Settings whose arrays hold one value a row, cut to the chosen rows."""
    return {key: value[chosen] if isinstance(value, np.ndarray) else value for key, value in settings.items()}


def _errors(values: Mapping[str, float], law: Law, data: pd.DataFrame, binding: dict[str, Any]) -> np.ndarray:
    bound = bind_table(law, data, **binding)
    return np.log(law.evaluate(values, bound.variables)) - np.log(bound.loss)


def _judge(
    values: Mapping[str, float],
    law: Law,
    data: pd.DataFrame,
    flops: np.ndarray,
    below: np.ndarray,
    cut: float,
    binding: dict[str, Any],
) -> Cut:
    errors = _errors(values, law, data, binding)[~below]
    above = flops[~below]
    nearest = above <= above.min() * 1.05
    return Cut(
        flops=float(cut),
        fitted=int(below.sum()),
        predicted=int((~below).sum()),
        decades=float(np.log10(above.max() / cut)),
        error=float(np.sqrt((errors**2).mean())),
        bias=float(errors.mean()),
        next_error=float(np.sqrt((errors[nearest] ** 2).mean())),
    )
