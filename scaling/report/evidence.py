"""The evidence behind the answer: the runs, the law against them, what the law says in between, the vocabulary."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from fits import filter_rows, usable_runs
from fits.errors import UserError
from scaling.report.bytes_per_token import bytes_per_token
from scaling.report.charts.draw import Chart
from scaling.report.charts.law import effect_chart, isoflop_chart
from scaling.report.charts.runs import agreement_chart, residual_chart, runs_chart, size_chart
from scaling.report.charts.vocabulary import compression_chart, entropy_chart
from scaling.report.collect import Material
from scaling.report.curves import (
    Effect,
    Frontier,
    Law,
    base_routing,
    effects,
    experts_of,
    frontier,
    isoflop_slice,
    ladder,
)
from scaling.report.fit_quality import Agreement, Noise, agreement, seed_noise
from scaling.report.points import RunPoint, run_points

_Result = TypeVar("_Result")
_EFFECT_ORDER = ("num_experts", "granularity", "vocab_size")


@dataclass(frozen=True)
class Evidence:
    """Tables and charts of the second part; whatever the folder does not support is empty."""

    runs: pd.DataFrame | None
    """The runs that are done."""
    not_done: str
    points: list[RunPoint]
    noise: Noise | None
    agreement: Agreement | None
    frontier: Frontier | None
    runs_charts: list[Chart]
    law_charts: list[Chart]
    isoflop: Chart | None
    effects: list[Chart]
    vocabulary_charts: list[Chart]
    could_not: list[str]
    """What the files were there for but could not be shown, and why."""


def evidence(material: Material) -> Evidence:
    """Everything that can be shown with what was found."""
    could_not: list[str] = []

    def attempt(what: str, make: Callable[[], _Result], otherwise: _Result) -> _Result:
        """A table of someone else's may lack what a chart needs: say so, and go on."""
        try:
            return make()
        except UserError as error:
            could_not.append(f"{what}: {error}")
            return otherwise

    runs, not_done = attempt("the runs", lambda: _done(material), (None, ""))
    law = attempt("the law", lambda: _law(material), None)
    response = law.fit.data.loss if law else "loss"
    unit = law.fit.unit if law else "nats/token"
    points = attempt("the runs", lambda: [] if runs is None else run_points(runs, response), [])
    noise = seed_noise(runs, response) if runs is not None and points else None
    fitted = attempt("the law against the runs", lambda: _agreement(law, runs, points), None)
    return Evidence(
        runs=runs,
        not_done=not_done,
        points=points,
        noise=noise,
        agreement=fitted,
        frontier=attempt("the law's frontier", lambda: _frontier(material, law, points), None),
        runs_charts=_runs_charts(points, unit),
        law_charts=_law_charts(fitted, noise, unit),
        isoflop=attempt("IsoFLOP slices", lambda: _isoflop(material, law, points), None),
        effects=attempt("effects", lambda: _effects(material, law, points), []),
        vocabulary_charts=_vocabulary(material),
        could_not=could_not,
    )


def _done(material: Material) -> tuple[pd.DataFrame | None, str]:
    if material.runs is None:
        return None, ""
    law = material.law or material.law_tokens
    chosen = filter_rows(material.runs, law.data.where) if law and law.data.where else material.runs
    return usable_runs(chosen)


def _law(material: Material) -> Law | None:
    fit = material.law or material.law_tokens
    if fit is None:
        return None
    in_bytes = any("train_bytes" in meaning for meaning in fit.means.values())
    return Law(fit, bytes_per_token(material) if in_bytes else None, fit.level)


def _agreement(law: Law | None, runs: pd.DataFrame | None, points: list[RunPoint]) -> Agreement | None:
    return agreement(law.fit, runs, points) if law is not None and runs is not None and points else None


def _runs_charts(points: list[RunPoint], unit: str) -> list[Chart]:
    charts = []
    if _known(points, "train_flops"):
        charts.append(runs_chart("runs", points, unit))
    if _known(points, "tokens") and _known(points, "params"):
        charts.append(size_chart("sizes", points))
    return charts


def _known(points: list[RunPoint], name: str) -> bool:
    """Whether every run has the figure."""
    return bool(points) and all(math.isfinite(getattr(each, name)) for each in points)


def _law_charts(fitted: Agreement | None, noise: Noise | None, unit: str) -> list[Chart]:
    if fitted is None:
        return []
    charts = [agreement_chart("agreement", fitted.points, fitted.predicted, unit)]
    if _known(fitted.points, "train_flops"):
        charts.append(residual_chart("residuals", fitted.points, fitted.residuals, noise.relative if noise else None))
    return charts


def _frontier(material: Material, law: Law | None, points: list[RunPoint]) -> Frontier | None:
    plan, sweep = material.plan, material.sweep
    if law is None or plan is None or sweep is None or not _known(points, "train_flops"):
        return None
    shapes = ladder(sweep, plan.model.vocab_size, experts_of(plan.model))
    cheapest = min(each.train_flops for each in points)
    return frontier(law, shapes, cheapest, plan.budget.train_flops, plan.sequence_length)


def _isoflop(material: Material, law: Law | None, points: list[RunPoint]) -> Chart | None:
    if law is None or material.sweep is None or not _known(points, "train_flops"):
        return None
    experts, vocab_size = base_routing(material.sweep)
    shapes = ladder(material.sweep, vocab_size, experts)
    largest = max(each.train_flops for each in points)
    most = material.plan.budget.train_flops if material.plan else 10 * largest
    budgets = [largest / 10, largest, (largest * most) ** 0.5, most]
    length = material.sweep.runs[0].training.sequence_length
    slices = [isoflop_slice(law, shapes, budget, length) for budget in budgets]
    found = [each for each in slices if each is not None]
    return isoflop_chart("isoflop", found, law.fit.unit) if found else None


def _effects(material: Material, law: Law | None, points: list[RunPoint]) -> list[Chart]:
    if law is None or material.sweep is None or not points:
        return []
    measured = {each.run_id: each.measured for each in points}
    found: dict[str, list[Effect]] = {}
    for effect in effects(law, material.sweep):
        found.setdefault(effect.factor, []).append(effect)
    return [
        effect_chart(f"effect-{factor}", found[factor], measured, law.fit.unit)
        for factor in _EFFECT_ORDER
        if factor in found
    ]


def _vocabulary(material: Material) -> list[Chart]:
    study = material.study
    if study is None or not (study.directory / "compression.csv").is_file():
        return []
    chosen = material.plan.model.vocab_size if material.plan else None
    return [compression_chart("compression", study, chosen), entropy_chart("entropy", study, chosen)]


def question_of(material: Material) -> str:
    """What the page is about: the plan's question, or what there is."""
    if material.plan is not None:
        return material.plan.question
    if material.plan_published is not None:
        return material.plan_published.question
    return "What do the small runs say?"
