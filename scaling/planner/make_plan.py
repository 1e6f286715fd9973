"""From a search to a training plan: the recipe, the promise, what being off costs, and what must be said aloud."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fits.laws.coefficients import published
from scaling.cluster.budget import short
from scaling.cluster.serving import serving_of
from scaling.plan import (
    Budget,
    Cluster,
    Data,
    Extrapolation,
    Provenance,
    Range,
    TokenizerChoice,
    TrainingPlan,
)
from scaling.planner.binding_constraints import binding_constraints
from scaling.planner.constraints import edges
from scaling.planner.pareto_front import pareto_front
from scaling.planner.prediction import prediction_of
from scaling.planner.published_advice import advice_at, spread
from scaling.planner.recipe import batch_ramp, carry_over, published_recipe
from scaling.planner.search import Search
from scaling.planner.sensitivity import sensitivity
from trainer_small.config import RunSpec

_DECISIONS = (
    "params_active",
    "params_total",
    "tokens",
    "hidden_size",
    "num_layers",
    "num_experts",
    "experts_per_token",
    "granularity",
    "vocab_size",
)
_WIDE = 1.0
"""Decades of extrapolation from which a plan says that the law was not seen to hold so far."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a plan says besides the law's answer."""

    name: str
    level: float
    """Of every interval."""
    gpu: str
    """For the cost of serving."""
    cluster: Cluster | None = None
    reference: RunSpec | None = None
    """A proxy whose recipe is carried over; without one the recipe is a published rule's."""
    law_file: str | Path | None = None
    tokenizer_file: Callable[[int], str | None] = lambda size: None
    vocabulary: str = "given"
    """How the vocabulary was chosen."""
    corpus: str | None = None
    ramp: bool = False
    """Whether the batch grows at the start."""
    remarks: tuple[str, ...] = ()


def draft(found: Search, context: Context) -> TrainingPlan:
    """The plan proper: model, tokens, recipe, budget and promise, without the reasons."""
    shape, text, loss_model = found.shape, found.text, found.loss_model
    length, spent = text.sequence_length, float(found.tokens[found.best])
    devices = context.cluster.gpus if context.cluster else 1
    if context.reference:
        recipe = carry_over(context.reference, shape, int(spent), length, devices=devices)
    else:
        recipe = published_recipe(found.candidates.spending.flops, int(spent), length, devices=devices)
    # Whole steps, and never above the budget.
    tokens = max(int(spent // recipe.batch_tokens), 1) * recipe.batch_tokens
    budget = Budget.exact(shape, tokens, length, context.cluster, found.candidates.spending.inference_tokens)
    flops = short(found.candidates.spending.flops)
    asked = "Which model, and how many tokens, for" if loss_model.fit else "What do published laws advise for"
    unique = text.unique_tokens
    return TrainingPlan(
        name=context.name,
        question=f"{asked} {flops} {'lifetime' if budget.inference_flops else 'training'} FLOPs?",
        model=shape,
        tokens=tokens,
        sequence_length=length,
        batch_tokens=recipe.batch_tokens,
        batch_ramp=batch_ramp(recipe.batch_tokens, tokens, length) if context.ramp else None,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        tokenizer=TokenizerChoice(
            vocab_size=shape.vocab_size, file=context.tokenizer_file(shape.vocab_size), source=context.vocabulary
        ),
        data=Data(
            corpus=context.corpus,
            unique_tokens=int(unique) if unique else None,
            epochs=tokens / unique if unique else None,
            effective_tokens=float(text.effective(tokens)) if unique else None,
            bytes_per_token=float(text.bytes_of(shape.vocab_size)) if text.bytes_per_token else None,
        ),
        budget=budget,
        serving=serving_of(shape, context.gpu, found.candidates.spending.inference_tokens),
        prediction=prediction_of(found, tokens, context.level),
        extrapolation=_extrapolation(found, tokens),
        warnings=recipe.warnings,
        provenance=Provenance.of(
            context.law_file,
            law=loss_model.name if loss_model.fit else f"published:{loss_model.name}",
            runs_sha256=loss_model.fit.data.sha256 if loss_model.fit else None,
        ),
    )


def with_reasons(plan: TrainingPlan, found: Search, context: Context) -> TrainingPlan:
    """The plan with intervals, flat region, neighbours, binding limits, Pareto front, opinions and warnings."""
    fit, level = found.loss_model.fit, context.level
    asked = {"shape": plan.model, "tokens": plan.tokens}
    bound = tuple(binding_constraints(found, level))
    plan = plan.model_copy(update={"binding": bound})
    decision = {}
    if found.loss_model.number_of_draws:
        decision = {key: _range(*found.decision_interval(key, level)) for key in _DECISIONS}
    flat = {key: found.column(key)[found.flat] for key in _DECISIONS}
    besides = "" if fit else found.loss_model.name
    return plan.model_copy(
        update={
            "decision": decision,
            "flat_region": {key: _range(values.min(), values.max()) for key, values in flat.items()},
            "neighbours": tuple(sensitivity(found, level)),
            "pareto": pareto_front(found, context.gpu),
            "advice": (
                *(spread(found.candidates, **asked, besides=besides) if plan.model.is_moe else ()),
                *advice_at(plan.budget.train_flops, **asked),
            ),
            "warnings": (*_warnings(plan, found), *context.remarks, *plan.warnings, *(fit.warnings if fit else ())),
        }
    )


def _extrapolation(found: Search, tokens: int) -> Extrapolation:
    decades = found.loss_model.decades(found.shape, float(tokens), found.text)
    compute = decades.pop("train_flops", None)
    if compute is None:  # no range of compute is known: the furthest variable stands in
        compute = max(decades.values(), default=0.0)
    return Extrapolation(decades_in_train_flops=max(compute, 0.0), decades=decades)


def _range(low: float, high: float) -> Range:
    return Range(low=float(low), high=float(high))


def _warnings(plan: TrainingPlan, found: Search) -> Iterator[str]:
    loss_model, beyond = found.loss_model, plan.extrapolation.decades_in_train_flops
    if not loss_model.fit:
        yield (
            "made from published laws only: their corpora, tokenizers and recipes are not yours, and no interval is "
            "published for these decisions"
        )
    if loss_model.note:
        yield f"{loss_model.name}: {loss_model.note}"
    if beyond >= _WIDE:
        yield (
            f"the plan spends {10**beyond:.3g} x the compute of the largest run behind the law ({beyond:.1f} decades); "
            "the interval holds only if the law's form does"
        )
    if not loss_model.knows_its_reach:
        yield f"{loss_model.name}: its source states no range of compute, so how far the plan lies beyond it is unknown"
    yield from _about_experts(plan, found)
    for edge in edges(found.candidates.space, found.table.take(found.allowed), _row(found)):
        yield f"{edge}; the optimum may lie beyond"
    if plan.layout_estimate and plan.budget.cluster and plan.layout_estimate.days > 1.02 * plan.budget.cluster.days:
        estimate, cluster = plan.layout_estimate, plan.budget.cluster
        yield (
            f"the cost model needs {estimate.days:.0f} days, not {cluster.days:g}: it expects "
            f"{estimate.tflops_per_gpu:.0f} TFLOP/s per GPU where the budget supposes "
            f"{cluster.peak_flops_per_gpu * cluster.utilisation / 1e12:.0f}"
        )
    built = [
        each for each in advice_at(plan.budget.train_flops, shape=plan.model, tokens=1) if each.law.endswith("built")
    ]
    actives = [each.params_active for each in built if each.params_active]
    if actives and not loss_model.fit and not min(actives) / 1.5 <= plan.model.params_active <= max(actives) * 1.5:
        yield (
            f"the law asks for {plan.model.params_active / 1e9:.3g}B active parameters; models built with a similar "
            f"budget have {min(actives) / 1e9:.3g}B to {max(actives) / 1e9:.3g}B"
        )


def _about_experts(plan: TrainingPlan, found: Search) -> Iterator[str]:
    if not plan.model.is_moe:
        return
    if not found.loss_model.sees_experts:
        yield f"law '{found.loss_model.name}' does not see the experts; the routing is the one given, not an optimum"
        return
    if not _more_experts_help(found):
        yield (
            f"by law '{found.loss_model.name}' more than {plan.model.num_experts} experts of this size do not help, "
            "which no published law says; look whether its runs determine that before relying on it"
        )
        return
    holding = [each for each in plan.binding if each.constraint.startswith(("max_", "memory"))]
    what = "the edge of the choices"
    if holding:
        first = holding[0]
        what = (
            f"{first.constraint} {short(first.limit)}, which binds: {short(first.relaxed_to)} would save "
            f"{first.gain:.0%} of the compute for the same loss"
        )
    yield (
        f"more experts always help in this kind of law, so their number ({plan.model.num_experts}) is set by memory, "
        f"communication and load balance, not by the loss; here by {what}"
    )


def _more_experts_help(found: Search) -> bool:
    """Whether twice the experts, the rest of the plan as it is, would lower the loss at the same budget."""
    spending = found.candidates.spending
    twice = found.shape.model_copy(update={"num_experts": 2 * found.shape.num_experts})
    own = found.loss_model.loss(found.shape, spending.tokens(found.shape), found.text)
    return bool(found.loss_model.loss(twice, spending.tokens(twice), found.text) < own)


def _row(found: Search) -> int:
    """The chosen row among the allowed ones."""
    return int(np.flatnonzero(np.flatnonzero(found.allowed) == found.best)[0])


def tao_vocabulary(params_active_non_embedding: float, hidden_size: float) -> int:
    """Approach 2 of Tao et al. (arXiv 2407.13623), a multiple of 128."""
    size = published("tao-derivative").evaluate(N=float(params_active_non_embedding), d=float(hidden_size))
    return max(math.ceil(float(size.value) / 128), 4) * 128
