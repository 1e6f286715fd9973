"""A training plan from the team's own law: search, interval, regret, recipe, and how far it reaches."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fits import Fit
from fits.errors import UserError
from scaling.advice import advice_at
from scaling.budget import short
from scaling.plan import (
    Budget,
    Cluster,
    Extrapolation,
    LossPoint,
    Neighbour,
    Prediction,
    Provenance,
    Range,
    TokenizerChoice,
    TrainingPlan,
)
from scaling.recipe import carry_over
from scaling.search import BytesPerToken, Search, columns_of, law_variables, search
from scaling.shapes import SearchSpace
from trainer_small.config import RunSpec
from trainer_small.ladder import Experts, Family
from trainer_small.sweep import Sweep

_DECISIONS = (
    "params_active",
    "params_total",
    "tokens",
    "hidden_size",
    "num_layers",
    "num_experts",
    "granularity",
    "vocab_size",
)
_WIDE = 1.0
"""Decades of extrapolation from which a plan says that the law was not seen to hold so far."""


def space_of_sweep(sweep: Sweep) -> SearchSpace:
    """The choices that the proxies tried: a plan does not go beyond them in experts, granularity or vocabulary."""
    shapes = [run.architecture for run in sweep.runs if run.architecture.is_moe]
    if not shapes:
        raise UserError(f"sweep '{sweep.name}' has no mixture-of-experts run; give a search space with --constraints.")
    experts = {
        (shape.num_experts, shape.experts_per_token, shape.num_shared_experts, round(shape.granularity, 3))
        for shape in shapes
    }
    first = shapes[0]
    family = {name: getattr(first, name) for name in Family.model_fields}
    keys = Experts.model_fields
    return SearchSpace(
        experts=tuple(Experts.model_validate(dict(zip(keys, choice, strict=True))) for choice in sorted(experts)),
        vocab_size=tuple(sorted({shape.vocab_size for shape in shapes})),
        family=Family.model_validate(family),
    )


def reference_run(sweep: Sweep) -> RunSpec:
    """The proxy whose recipe is carried over: the most expensive one."""
    return max(sweep.runs, key=lambda run: run.train_flops)


def plan_from_fit(
    fit: Fit,
    train_flops: float,
    *,
    space: SearchSpace,
    reference: RunSpec,
    sequence_length: int | None = None,
    bytes_per_token: BytesPerToken | None = None,
    tokenizer_file: Callable[[int], str | None] = lambda size: None,
    cluster: Cluster | None = None,
    law_file: str | Path | None = None,
    level: float = 0.9,
    name: str = "plan",
) -> TrainingPlan:
    """The shape and the tokens with the lowest loss that the law predicts for a budget.

    Args:
        train_flops: exact training FLOPs to spend (``flops_per_token x tokens``).
        space: the shapes to choose from.
        reference: a proxy run; its recipe is carried over.
        sequence_length: of the big run; the proxy's when left out.
        bytes_per_token: training bytes per token at a vocabulary size, when the law counts data in bytes.
        level: of every interval in the plan.

    Raises:
        UserError: no shape fits, or the law needs what a plan cannot give.
    """
    if "vocab_size" not in columns_of(fit) and len(space.vocab_size) > 1:
        raise UserError(
            f"law '{fit.law}' does not see the vocabulary, so it cannot choose among {list(space.vocab_size)}; "
            "hold it with --vocab-size, at the size that the law's runs had."
        )
    sequence_length = sequence_length or reference.training.sequence_length
    found = search(fit, space, train_flops, sequence_length=sequence_length, bytes_per_token=bytes_per_token)
    shape = found.shape
    recipe = carry_over(reference, shape, int(found.tokens[found.best]), sequence_length)
    # Whole steps, and never above the budget.
    tokens = max(int(found.tokens[found.best] // recipe.batch_tokens), 1) * recipe.batch_tokens
    extrapolation = _extrapolation(found, tokens, sequence_length)
    return TrainingPlan(
        name=name,
        question=f"Which model, and how many tokens, for {short(train_flops)} training FLOPs?",
        model=shape,
        tokens=tokens,
        sequence_length=sequence_length,
        batch_tokens=recipe.batch_tokens,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        tokenizer=TokenizerChoice(
            vocab_size=shape.vocab_size,
            file=tokenizer_file(shape.vocab_size),
            source="given" if len(space.vocab_size) == 1 else f"chosen by the law among {list(space.vocab_size)}",
        ),
        budget=Budget.exact(shape, tokens, sequence_length, cluster),
        prediction=_prediction(found, tokens, level),
        extrapolation=extrapolation,
        decision={key: _range(found.decision_interval(key, level)) for key in _DECISIONS},
        flat_region=_flat_region(found),
        neighbours=tuple(_neighbours(found, level)),
        advice=tuple(advice_at(train_flops, shape=shape, tokens=tokens)),
        warnings=(*_warnings(found, extrapolation), *recipe.warnings, *fit.warnings),
        provenance=Provenance.of(law_file, runs_sha256=fit.data.sha256),
    )


def _prediction(found: Search, tokens: int, level: float) -> Prediction:
    horizons = np.unique(np.geomspace(max(tokens / 100, 1), tokens, 13).astype(int))
    variables = law_variables(found.fit, found.shape, horizons, found.bytes_per_token)
    values = found.fit.predict(**variables)
    low, high = found.fit.band(level, new_run=False, **variables)
    modes = _modes(found.fit.predict_draws(**variables) - values)
    points = zip(horizons, values, low, high, modes, strict=True)
    curve = tuple(
        LossPoint(tokens=int(count), value=float(value), low=float(lower), high=float(upper), modes=tuple(mode))
        for count, value, lower, upper, mode in points
    )
    end = curve[-1]
    relative = found.fit.objective.name.startswith("log-")
    return Prediction(
        quantity="bits_per_byte" if "bits_per_byte" in found.fit.data.loss else "loss",
        unit=found.fit.unit,
        value=end.value,
        low=end.low,
        high=end.high,
        interval=f"{level:.0%} bootstrap interval of the law's mean at the plan; it holds only if the law's form does",
        law=found.fit.law,
        source=f"fitted to {found.fit.n_runs} runs: {found.fit.formula}",
        curve=curve,
        run_sd=found.fit.residual_scale * (end.value if relative else 1.0),
    )


def _modes(errors: np.ndarray, number: int = 3) -> list[list[float]]:
    """The largest principal components of drawn errors [B, P] about the fitted curve: ``number`` values a point.

    A few wild draws of the bootstrap must not set the direction, so each point's tails are clipped at 0.5 %.
    """
    errors = errors[np.isfinite(errors).all(axis=1)]
    errors = np.clip(errors, *np.quantile(errors, [0.005, 0.995], axis=0))
    _, sizes, directions = np.linalg.svd(errors, full_matrices=False)
    modes = (sizes[:, None] * directions / np.sqrt(len(errors)))[:number]
    return [[float(f"{value:.6g}") for value in point] for point in modes.T]


def _extrapolation(found: Search, tokens: int, sequence_length: int) -> Extrapolation:
    spent = found.shape.flops_per_token(sequence_length) * tokens
    variables = law_variables(found.fit, found.shape, float(tokens), found.bytes_per_token)
    decades = found.fit.extrapolation(**variables)
    if "train_flops" in found.fit.ranges:
        beyond = found.fit.extrapolation(train_flops=spent)["train_flops"]
    else:  # a foreign table without the column: the furthest variable stands in
        beyond = max(decades.values(), default=0.0)
    return Extrapolation(
        decades_in_train_flops=round(max(beyond, 0.0), 3),
        decades={key: round(float(value), 3) for key, value in decades.items()},
    )


def _flat_region(found: Search) -> dict[str, Range]:
    near = found.flat_region()
    columns = {key: found.column(key)[near] for key in _DECISIONS}
    return {key: Range(low=float(values.min()), high=float(values.max())) for key, values in columns.items()}


def _neighbours(found: Search, level: float) -> Iterator[Neighbour]:
    """The plan with one choice changed; width and depth are chosen anew where routing or vocabulary changes."""
    chosen, routing = found.shape, found.routings[found.best]
    width, vocab_size = found.column("hidden_size"), found.column("vocab_size")
    same_routing = np.array([each == routing for each in found.routings])
    same_vocabulary = vocab_size == chosen.vocab_size
    others = np.unique(width[same_routing & same_vocabulary])
    steps = [*others[others < chosen.hidden_size][-2:], *others[others > chosen.hidden_size][:2]]
    for value in steps:
        matches = same_routing & same_vocabulary & (width == value)
        yield _neighbour(found, matches, f"hidden_size {chosen.hidden_size} -> {value:g}", level)
    for other in dict.fromkeys(found.routings):
        if other != routing:
            matches = np.array([each == other for each in found.routings]) & same_vocabulary
            change = f"{other.num_experts} experts, top {other.experts_per_token}, G {other.granularity:g}"
            yield _neighbour(found, matches, change, level)
    for value in np.unique(vocab_size[~same_vocabulary]):
        matches = same_routing & (vocab_size == value)
        yield _neighbour(found, matches, f"vocab_size {chosen.vocab_size} -> {value:g}", level)


def _neighbour(found: Search, matches: np.ndarray, change: str, level: float) -> Neighbour:
    """The regret of the best of the matching candidates, with its interval over the draws."""
    index = int(np.flatnonzero(matches)[np.argmin(found.loss[matches])])
    draws = found.regret_draws(index)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Neighbour(change=change, regret=_finite(found.regret(index)), low=_finite(low), high=_finite(high))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _range(interval: tuple[float, float]) -> Range:
    return Range(low=interval[0], high=interval[1])


def _warnings(found: Search, extrapolation: Extrapolation) -> Iterator[str]:
    if not columns_of(found.fit) & {"activation_ratio", "num_experts", "params_total"}:
        yield f"law '{found.fit.law}' does not see the experts; the plan's routing is the leanest, not an optimum"
    beyond = extrapolation.decades_in_train_flops
    if beyond >= _WIDE:
        yield (
            f"the plan spends {10**beyond:.3g} x the compute of the largest run behind the law ({beyond:.1f} decades); "
            "the interval holds only if the law's form does"
        )
    for key in ("hidden_size", "params_active"):
        values = found.column(key)
        if found.column(key)[found.best] in (values.min(), values.max()):
            yield f"{key} of the plan is at the edge of the shapes that were tried; widen the search space to be sure"
            break
    for key in ("num_experts", "vocab_size"):
        values = found.column(key)
        if values.min() < values.max() and found.column(key)[found.best] in (values.min(), values.max()):
            edge = "smallest" if found.column(key)[found.best] == values.min() else "largest"
            yield f"{key} of the plan is the {edge} that the proxies tried; the optimum may lie beyond"
