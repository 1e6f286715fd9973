"""The spread of opinion: the same budget put to every published law that applies, and what others built with it."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from fits.coefficients import published
from fits.opinions import allocations
from fits.schema import Count, Schema
from scaling.plan import Advice
from trainer_small.architecture import Architecture

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
    yield from _rates(train_flops, shape, tokens)
    yield from _as_built(train_flops)


def _allocations(train_flops: float) -> Iterator[Advice]:
    for opinion in allocations(train_flops)[0]:
        yield Advice(
            law=opinion.name,
            source=opinion.source,
            params_active=opinion.params,
            tokens=opinion.tokens,
            loss=opinion.loss,
            decades_out_of_range=opinion.decades_beyond,
            note="; ".join(part for part in (opinion.models, opinion.note) if part),
        )


def _rates(train_flops: float, shape: Architecture, tokens: int) -> Iterator[Advice]:
    asked = {"C": train_flops, "N": float(shape.params_total_non_embedding), "D": float(tokens)}
    for name in ("tian", "deepseek", "steplaw"):
        rate, batch = published(f"{name}-learning-rate"), published(f"{name}-batch")
        variable = "C" if "C" in rate.law.variable_names else "D"
        yield Advice(
            law=f"{name}, rate and batch",
            source=rate.source,
            learning_rate=float(rate.evaluate(**{key: asked[key] for key in rate.law.variable_names}).value),
            batch_tokens=float(batch.evaluate(**{key: asked[key] for key in batch.law.variable_names}).value),
            decades_out_of_range=rate.decades_outside(variable, asked[variable]),
            note=f"{rate.record.models}; "
            + ("all experts counted in N" if "N" in rate.law.variable_names else "C only"),
        )


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
