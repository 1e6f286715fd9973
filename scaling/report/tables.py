"""Tables of the page: the runs and the parameters of a law, as text with sensible digits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from fits import Fit
from scaling.report.equation import equations
from scaling.report.fit_quality import Agreement, Noise, convergence_in_words
from scaling.report.numbers import NOTHING, fixed, flops, plain, quantity, rough, share, short, vocabulary


@dataclass(frozen=True)
class TableColumn:
    """A column of the table of runs: where it comes from and how it reads."""

    name: str
    title: str
    form: Callable[[Any], str] = quantity
    numeric: bool = True


_RUNS = (
    TableColumn("run_id", "run", str, numeric=False),
    TableColumn("purpose", "bought for", str, numeric=False),
    TableColumn("hidden_size", "wide", plain),
    TableColumn("num_layers", "layers", plain),
    TableColumn("num_experts", "experts", plain),
    TableColumn("granularity", "G"),
    TableColumn("vocab_size", "vocab", vocabulary),
    TableColumn("params_total", "params", short),
    TableColumn("params_active", "active", short),
    TableColumn("tokens", "tokens", short),
    TableColumn("train_flops", "FLOPs", flops),
    TableColumn("loss", "nats/token", fixed),
    TableColumn("bits_per_byte", "bits/byte", fixed),
    TableColumn("seed", "seed", plain),
)


def runs_table(runs: pd.DataFrame | None) -> tuple[list[TableColumn], list[list[str]]]:
    """Columns that the table has, and its rows as text."""
    if runs is None:
        return [], []
    columns = [column for column in _RUNS if column.name in runs.columns]
    rows = [
        [NOTHING if run[column.name] != run[column.name] else column.form(run[column.name]) for column in columns]
        for run in runs.to_dict("records")
    ]
    return columns, rows


@dataclass(frozen=True)
class ParameterRow:
    """One coefficient of a law."""

    name: str
    value: str
    interval: str
    error: str
    meaning: str


@dataclass(frozen=True)
class LawView:
    """A fitted law as the page shows it."""

    fit: Fit
    intro: str
    equations: list[Markup]
    parameters: list[ParameterRow]
    convergence: list[str]
    agreement: str


def law_view(fit: Fit, fitted: Agreement | None, noise: Noise | None) -> LawView:
    """A law with its figures in words."""
    objective = fit.objective
    form = f"{objective.name}, delta {quantity(objective.delta)}" if "huber" in objective.name else objective.name
    intro = (
        f"Fitted to {fit.n_runs} runs by {form}, summed; {quantity(objective.value)} at the optimum. "
        f"The response is {fit.data.loss}, in {fit.unit}."
    )
    return LawView(
        fit,
        intro,
        [Markup(each) for each in equations(fit.as_law)],
        list(_parameters(fit)),
        list(convergence_in_words(fit)),
        _agreement(fit, fitted, noise) if fitted else "",
    )


def _parameters(fit: Fit) -> Iterator[ParameterRow]:
    meanings = {record.name: record.meaning for record in fit.parameter_records}
    for name, estimate in fit.parameters.items():
        held = estimate.how == "fixed"
        yield ParameterRow(
            name,
            quantity(estimate.value),
            "held fixed" if held else f"{rough(estimate.low)} to {rough(estimate.high)}",
            NOTHING if held else rough(estimate.standard_error, 2),
            meanings.get(name, ""),
        )


def _agreement(fit: Fit, fitted: Agreement, noise: Noise | None) -> str:
    text = f"The law misses its runs by {share(fitted.scatter)} (root mean square); it misses {fitted.worst} by most."
    if fit.n_runs != len(fitted.points):
        text += f" Shown are all {len(fitted.points)} runs of the table; {fit.n_runs} were fitted."
    if noise is None:
        return text
    times = fitted.scatter / noise.relative if noise.relative else float("inf")
    verdict = (
        "as close as the noise allows"
        if times <= 1.5
        else "more than noise explains, so its form is not exact even here"
    )
    return f"{text} Between seeds one run varies by {share(noise.relative)}: the law is {verdict}."
