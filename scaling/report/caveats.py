"""What would not be trusted: plain statements about this evidence, made from its figures."""

from collections.abc import Iterator

from fits.tables.runs import column_values
from scaling.report.answer import is_built, is_wide
from scaling.report.collect import Material
from scaling.report.evidence import Evidence
from scaling.report.numbers import about, share, short


def caveats(material: Material, found: Evidence) -> list[str]:
    """One sentence a doubt that applies."""
    return [*_extrapolation(material), *_intervals(material), *_law(material), *_runs(found), *_second(material)]


def _extrapolation(material: Material) -> Iterator[str]:
    plan = material.plan
    if plan is None:
        return
    outside = {name: decades for name, decades in plan.extrapolation.decades.items() if abs(decades) >= 0.05}
    if outside:
        each = ", ".join(
            f"{name} {abs(value):.1f} {'above' if value > 0 else 'below'}" for name, value in outside.items()
        )
        yield (
            f"The plan lies outside what the runs covered, in decades: {each}. The bootstrap knows the noise of the "
            "runs, not what the law does out there."
        )


def _intervals(material: Material) -> Iterator[str]:
    plan = material.plan
    if plan is None:
        return
    wide = [name for name, found in plan.decision.items() if is_wide(found.low, found.high)]
    if wide:
        yield f"{', '.join(wide)}: the interval spans over a factor of two, so the value is a choice, not a finding."
    never = [each.change for each in plan.neighbours if each.low is not None and each.high is None]
    if never:
        yield (
            f"For {len(never)} of {len(plan.neighbours)} neighbours some draws of the law never reach the plan's loss: "
            "the regret has no upper end there."
        )


def _law(material: Material) -> Iterator[str]:
    fit = material.law or material.law_tokens
    if fit is None:
        return
    loose = [
        name
        for name, each in fit.parameters.items()
        if each.how == "fitted" and each.standard_error > 0.3 * abs(each.value)
    ]
    if loose:
        yield (
            f"Coefficients known worse than to 30 %: {', '.join(loose)}. They are right together, not one by one; "
            "do not quote them alone."
        )
    per_parameter = fit.n_runs / max(sum(each.how == "fitted" for each in fit.parameters.values()), 1)
    if per_parameter < 5:
        yield (
            f"{fit.n_runs} runs for {fit.n_runs / per_parameter:.0f} free parameters is few: "
            "another law of as many parameters would fit as well and extrapolate differently."
        )


def _runs(found: Evidence) -> Iterator[str]:
    if found.noise is not None and found.noise.runs < 4:
        yield (
            f"The noise between seeds, {share(found.noise.relative)}, comes from {found.noise.runs} runs: "
            "it may be half or twice that."
        )
    runs = found.runs
    if runs is not None and {"tokens", "params_active"} <= set(runs.columns):
        active = column_values(runs, "params_active")
        ratio = column_values(runs, "tokens") / active
        yield (
            f"The runs see {about(ratio.min())} to {about(ratio.max())} tokens per "
            f"active parameter, and are at most {short(active.max())} active parameters large. "
            "Effects that begin at scale (instabilities, data repetition, routing collapse) cannot show here."
        )


def _second(material: Material) -> Iterator[str]:
    plan = material.plan_published
    advice = plan.advice if plan else ()
    sizes = [each.params_active for each in advice if each.params_active and not is_built(each)]
    if len(sizes) > 1:
        yield (
            f"Published laws asked about the second budget advise {short(min(sizes))} to {short(max(sizes))} active "
            f"parameters, a factor of {about(max(sizes) / min(sizes))}: they cannot all hold for one recipe."
        )
