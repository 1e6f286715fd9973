"""The spread of opinion: the same budget put to every published law that applies, and what others built with it."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from fits.decisions.published_allocations import allocations
from fits.errors import UserError
from fits.laws.coefficients import published
from fits.schema import Count, Schema
from scaling.plan import Advice
from scaling.planner.binding_constraints import describe
from scaling.planner.published_loss_models import published_loss_model
from scaling.planner.search import Candidates, finite, held_by, search
from trainer_small.architecture import Architecture

_LOSS_MODELS = ("tian", "tian-hoffmann", "joint-moe", "abnar", "krajewski", "flame")
"""The laws that are asked about every plan with experts."""
_SIMILAR = 3.0
"""A model was built with a similar budget when 6 N D is within this factor."""


class BuiltModel(Schema):
    params_total: Count
    params_active: Count
    tokens: Count
    source: str

    @property
    def six_n_d(self) -> float:
        return 6.0 * self.params_active * self.tokens


class _BuiltModels(Schema):
    schema_version: Literal[1] = 1
    models: dict[str, BuiltModel]


@cache
def built_models() -> dict[str, BuiltModel]:
    """Published mixture-of-experts models as built, by name."""
    return _BuiltModels.load(Path(__file__).with_name("built_models.yaml")).models


def advice_at(train_flops: float, *, shape: Architecture, tokens: int) -> Iterator[Advice]:
    """Size and tokens, then learning rate and batch, by each law in its own convention; then models as built.

    Args:
        train_flops: the budget, taken as each law's own C.
        shape, tokens: the plan, for the laws that take the size and the data instead of compute.
    """
    yield from _allocations(train_flops)
    yield from recipes_at(train_flops, shape=shape, tokens=tokens)
    yield from _as_built(train_flops)


def spread(found: Candidates, *, shape: Architecture, tokens: int, besides: str = "") -> Iterator[Advice]:
    """What each published law that sees experts would build under the same limits, and what it says of the plan.

    Args:
        found: the plan's own candidates.
        shape, tokens: the plan.
        besides: a law that need not be asked again.
    """
    for name in _LOSS_MODELS:
        if name == besides:
            continue
        loss_model = published_loss_model(name)
        try:
            own = search(loss_model, found)
        except UserError:  # it was fitted to other shapes than these
            continue
        decades = loss_model.decades(own.shape, float(own.tokens[own.best]), own.text)
        judges = not loss_model.holds or held_by(loss_model, shape)
        yield Advice(
            law=f"{name}, priced",
            source=loss_model.source,
            params_active=float(own.shape.params_active),
            params_total=float(own.shape.params_total),
            tokens=float(own.tokens[own.best]),
            loss=float(own.loss[own.best]),
            shape=describe(own.table, own.best),
            regret=finite(own.regret_of(shape, float(tokens))[0]) if judges else None,
            decades_out_of_range=max(map(abs, decades.values())) if loss_model.knows_its_reach else None,
            note=loss_model.note,
        )


def _allocations(train_flops: float) -> Iterator[Advice]:
    for allocation in allocations(train_flops)[0]:
        yield Advice(
            law=allocation.name,
            source=allocation.source,
            params_active=allocation.params,
            tokens=allocation.tokens,
            loss=allocation.loss,
            decades_out_of_range=allocation.decades_beyond,
            note="; ".join(part for part in (allocation.models, allocation.note) if part),
        )


def recipes_at(train_flops: float, *, shape: Architecture, tokens: int) -> Iterator[Advice]:
    """Learning rate, batch and weight decay by each published rule for them."""
    asked = {"C": train_flops, "N": float(shape.params_total_non_embedding), "D": float(tokens)}
    for name in ("tian", "deepseek", "steplaw"):
        rate, batch = published(f"{name}-learning-rate"), published(f"{name}-batch")
        variable = "C" if "C" in rate.law.variable_names else "D"
        learning_rate = float(rate.evaluate(**{key: asked[key] for key in rate.law.variable_names}).value)
        batch_tokens = float(batch.evaluate(**{key: asked[key] for key in batch.law.variable_names}).value)
        yield Advice(
            law=f"{name}, rate and batch",
            source=rate.source,
            learning_rate=learning_rate,
            batch_tokens=batch_tokens,
            weight_decay=weight_decay_at(shape, tokens, batch_tokens, learning_rate),
            decades_out_of_range=rate.decades_outside(variable, asked[variable]),
            note=f"{rate.record.models}; "
            + ("all experts counted in N" if "N" in rate.law.variable_names else "C only")
            + "; weight decay by Power Lines at this rate and batch",
        )


def weight_decay_at(shape: Architecture, tokens: int, batch_tokens: float, learning_rate: float) -> float:
    """lambda = B / (tau eta D) with the AdamW time scale tau of Power Lines (arXiv 2505.13738), N active parameters."""
    law = published("power-lines-timescale")
    scale = float(law.evaluate(N=float(shape.params_active), D=float(tokens)).value)
    return batch_tokens / (scale * learning_rate * tokens)


def _as_built(train_flops: float) -> Iterator[Advice]:
    for name, model in built_models().items():
        if abs(math.log(model.six_n_d / train_flops)) <= math.log(_SIMILAR):
            yield Advice(
                law=f"{name} as built",
                source=model.source,
                params_active=float(model.params_active),
                tokens=float(model.tokens),
                note=f"{model.params_total / 1e9:.0f}B in all; 6 N D = {model.six_n_d:.3g}",
            )
