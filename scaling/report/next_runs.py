"""What to run next, by plain rules: each looks at one weakness and names the runs that would mend it."""

import math
from collections.abc import Iterator

import numpy as np

from fits.tables.runs import column_values
from scaling.report.answer import is_wide
from scaling.report.collect import Material
from scaling.report.evidence import Evidence
from scaling.report.fit_quality import Agreement, Noise
from scaling.report.numbers import about, flops, quantity, share, short

_FAR_LONGER = 3.0
"""Tokens per parameter of the plan over those of the runs from which it asks for longer runs."""
_EFFECTS = {"delta": "the number of experts", "gamma": "granularity", "kappa": "the vocabulary"}
"""Parameters of the law whose sign says whether a choice matters at all."""


def what_to_run_next(material: Material, found: Evidence) -> list[str]:
    """One sentence a rule that applies, most useful first."""
    return [
        *_longer(material, found),
        *_rung(material, found),
        *_edges(material, found),
        *_unsettled(material),
        *_noise(found.agreement, found.noise),
        *_recipe(found),
    ]


def _rung(material: Material, found: Evidence) -> Iterator[str]:
    """A rung between the runs and the plan checks the form of the law where it is still cheap."""
    plan = material.plan
    if plan is None or not found.points or plan.extrapolation.decades_in_train_flops < 1:
        return
    largest = max(each.train_flops for each in found.points)
    if not math.isfinite(largest):
        return
    rung = largest * 10 ** (plan.extrapolation.decades_in_train_flops / 2)
    yield (
        f"A rung half-way: one run of the best size by the law at {flops(rung)} FLOPs. It costs "
        f"{share(rung / plan.budget.train_flops)} of the plan and halves the decades that are extrapolated; if its "
        "loss misses the band, the law's form does not hold so far."
    )
    params = plan.decision.get("params_active")
    if params and is_wide(params.low, params.high):
        yield (
            f"The best size is known only to {short(params.low)} to {short(params.high)} active parameters: "
            "runs far from the optimum on both sides (a quarter and four times the size at one budget) narrow it most."
        )


def _longer(material: Material, found: Evidence) -> Iterator[str]:
    """Runs far shorter for their size than the plan say little about the data term where it matters."""
    plan, runs = material.plan, found.runs
    if plan is None or runs is None or not {"tokens", "params_active"} <= set(runs.columns):
        return
    longest = float(np.nanmax(column_values(runs, "tokens / params_active")))
    wanted = plan.tokens / plan.model.params_active
    if wanted > _FAR_LONGER * longest:
        yield (
            f"Longer runs: the plan sees {about(wanted)} tokens per active parameter, the runs at most "
            f"{about(longest)}. The smallest size trained {about(wanted / longest)} times longer costs little and "
            "shows whether the data term holds there."
        )


def _edges(material: Material, found: Evidence) -> Iterator[str]:
    plan, runs = material.plan, found.runs
    if plan is None or runs is None or not {"num_experts", "vocab_size"} <= set(runs.columns):
        return
    for key, name in (("num_experts", "experts"), ("vocab_size", "vocabulary")):
        tried = sorted(set(column_values(runs, key).tolist()))
        value = getattr(plan.model, key)
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            way, factor = ("below", 0.5) if value == tried[0] else ("above", 2)
            yield (
                f"The plan sits at the edge of the {name} that were tried ({quantity(value)}): "
                f"two runs {way} it, at {quantity(value * factor)}, show whether the optimum lies there."
            )


def _unsettled(material: Material) -> Iterator[str]:
    if material.law is None:
        return
    for name, what in _EFFECTS.items():
        estimate = material.law.parameters.get(name)
        if estimate is not None and _straddles_zero(estimate.low, estimate.high):
            yield (
                f"The effect of {what} is not told from none ({name} {quantity(estimate.value)}, interval "
                f"{quantity(estimate.low)} to {quantity(estimate.high)}): vary it over a wider range, at several sizes."
            )


def _straddles_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= 0 <= high


def _noise(agreement: Agreement | None, noise: Noise | None) -> Iterator[str]:
    if agreement is None:
        return
    if noise is None:
        yield "No seed was repeated: two more seeds of one middle run measure the noise that all intervals stand on."
    elif agreement.scatter > 2 * noise.relative:
        yield (
            f"The law misses the runs by {share(agreement.scatter)}, {agreement.scatter / noise.relative:.1f} times "
            f"the noise between seeds ({share(noise.relative)}): something varies that the law does not hold. Look at "
            "the largest residuals before buying more runs of the same kind."
        )


def _recipe(found: Evidence) -> Iterator[str]:
    runs = found.runs
    if runs is not None and "learning_rate" in runs.columns and len(set(runs["learning_rate"])) == 1:
        yield (
            "All runs share one learning rate: three rates at two widths would show whether it was the best one, and "
            "whether carrying it over by width holds here."
        )
