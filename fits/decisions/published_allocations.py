"""The spread of opinion: what every published law calls compute-optimal at one budget."""

from dataclasses import dataclass

from fits.decisions.allocation import optimal_allocation, surface
from fits.errors import UserError
from fits.laws.coefficients import Published, list_published

_EXPERTS = (1, 8, 32)


@dataclass(frozen=True)
class PublishedAllocation:
    """One law's advice in its own convention; tokens are None when it advises a size alone."""

    name: str
    models: str
    params: float
    tokens: float | None
    decades_beyond: float | None
    """Beyond the compute it was fitted on; None when its source states no range."""
    evidence: str
    source: str
    note: str
    loss: float | None = None
    """At that size and data, for laws of the loss; each of its own corpus."""


def allocations(flops: float) -> tuple[list[PublishedAllocation], float]:
    """Every published allocation at a budget, and the ratio of the largest to the smallest size.

    Laws that state FLOPs per token are divided by 6. Loss laws in N and D are minimised under C = 6 N D.

    Raises:
        UserError: the budget is not above zero.
    """
    if not flops > 0:
        raise UserError(f"The budget is {flops} FLOPs; it must be a number above 0.")
    sets = list_published()
    found = [*_stated(sets, flops), *_minimised(sets, flops)]
    sizes = [each.params for each in found]
    return sorted(found, key=lambda each: each.params), max(sizes) / min(sizes)


def _stated(sets: list[Published], flops: float) -> list[PublishedAllocation]:
    """Pairs of power laws in compute."""
    groups: dict[str, dict[str, Published]] = {}
    for each in sets:
        if each.record.allocation:
            groups.setdefault(each.record.allocation, {})[each.record.quantity] = each
    found = []
    for name, group in groups.items():
        size = group.get("params") or group["flops_per_token"]
        divisor = 1.0 if "params" in group else 6.0
        note = "" if "params" in group else "FLOPs per token / 6"
        tokens = group["tokens"].evaluate(C=flops).value if "tokens" in group else None
        found.append(
            PublishedAllocation(
                name,
                size.record.models,
                size.evaluate(C=flops).value / divisor,
                tokens,
                size.decades_outside("C", flops),
                size.record.evidence,
                size.source,
                note,
            )
        )
    return found


def _minimised(sets: list[Published], flops: float) -> list[PublishedAllocation]:
    """Loss laws in N and D, and the joint mixture-of-experts law at a few expert counts."""
    found = []
    for each in sets:
        names = set(each.law.variable_names)
        if (
            not each.record.advice
            or each.record.quantity != "loss"
            or not {"N", "D"} <= names
            or "C" not in each.record.conventions
        ):
            continue
        cases: list[dict[str, float]] = [{}]
        if names == {"N", "D", "E"}:
            cases = [{"E": float(count)} for count in _EXPERTS]
        elif names != {"N", "D"}:
            continue
        for others in cases:
            best = optimal_allocation(surface(each, others=others), flops)
            if not best.interior:
                continue
            decades = each.decades_outside("C", flops)
            if decades is None:
                spans = [each.decades_outside("N", best.size.value), each.decades_outside("D", best.tokens.value)]
                decades = max((span for span in spans if span is not None), default=None)
            suffix = "".join(f", {key}={value:g}" for key, value in others.items())
            found.append(
                PublishedAllocation(
                    each.name + suffix,
                    each.record.models,
                    best.size.value,
                    best.tokens.value,
                    decades,
                    each.record.evidence,
                    each.source,
                    each.record.notes,
                    best.loss.value,
                )
            )
    return found
