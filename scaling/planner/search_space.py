"""What a planner may choose from and what it must keep to: a constraints file has these keys."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from fits.errors import UserError
from fits.schema import Count, Schema
from trainer_small.ladder import Experts, Family
from trainer_small.sweeps.sweep import Sweep

_COUNTS = (
    *("hidden_size", "num_layers", "num_attention_heads", "num_experts", "experts_per_token", "num_shared_experts"),
    *("expert_ffn_size", "num_dense_layers", "vocab_size"),
)


ROUTING = (
    *("experts", "num_experts", "experts_per_token", "num_shared_experts", "granularity", "num_dense_layers"),
    "active_ffn_ratio",
)
"""The keys of a search space that say what may be chosen of experts."""


class SearchSpace(Schema):
    """Choices, each a list, and limits. Every combination of the choices is tried.

    A list that is left out is filled by what published models use around the usual shape of a width.
    """

    schema_version: Literal[1] = 1
    hidden_size: tuple[Count, ...] = ()
    """Left out: every hardware-friendly width from 32 to 32768."""
    num_layers: tuple[Count, ...] = ()
    """Left out: ``depth_factors`` times the usual depth of a width."""
    depth_factors: tuple[PositiveFloat, ...] = (0.8, 0.9, 1.0, 1.1, 1.25)
    num_attention_heads: tuple[Count, ...] = ()
    """Left out: ``head_factors`` times the usual number."""
    head_factors: tuple[PositiveFloat, ...] = (1.0,)
    experts: tuple[Experts, ...] = ()
    """Routing choices that go together; left out, all combinations of the next five lists."""
    num_experts: tuple[Count, ...] = ()
    experts_per_token: tuple[Count, ...] = ()
    num_shared_experts: tuple[Count, ...] = (1,)
    granularity: tuple[PositiveFloat, ...] = ()
    """G = 2 hidden_size / expert_ffn_size; with 0 experts, of the dense FFN."""
    expert_ffn_size: tuple[Count, ...] = ()
    """Instead of ``granularity``: the widths themselves."""
    active_ffn_ratio: tuple[PositiveFloat, PositiveFloat] = (2.0, 6.0)
    """Lowest and highest (experts_per_token + shared) x expert_ffn_size / hidden_size of those combinations. Laws do
    not see how attention and FFN share the work (20 to 50 % attention is flat, arXiv 2507.17702); models lie here."""
    num_dense_layers: tuple[Count, ...] = ()
    """Left out: the family's."""
    vocab_size: tuple[Count, ...] = ()
    family: Family = Family()

    max_params_total: PositiveFloat | None = None
    max_params_active: PositiveFloat | None = None
    max_decode_seconds: PositiveFloat | None = None
    """GPU-seconds to generate a million tokens."""
    tokens_per_parameter: tuple[PositiveFloat, PositiveFloat] = (1.0, 20000.0)
    """Tokens over active parameters, lowest and highest: outside, a shape is not tried."""
    inference_tokens: float = Field(default=0.0, ge=0)
    """Tokens to be served, paid from the same budget."""
    unique_tokens: PositiveFloat | None = None
    """Tokens there are; more are repeats."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        free = self.num_experts or self.experts_per_token or self.granularity or self.expert_ffn_size
        if self.experts and free:
            raise ValueError("give either experts or lists of num_experts, experts_per_token and granularity, not both")
        if self.granularity and self.expert_ffn_size:
            raise ValueError("granularity and expert_ffn_size say the same; give one of them")
        for name in ("experts_per_token", "granularity"):
            if free and not (getattr(self, name) or (name == "granularity" and self.expert_ffn_size)):
                raise ValueError(f"{name} is left out beside num_experts; give a list of what to try")
        if free and not self.num_experts:
            raise ValueError("num_experts is left out beside the other routing lists; give a list of what to try")
        if free and min(self.experts_per_token) > max(self.num_experts):
            raise ValueError(f"experts_per_token {min(self.experts_per_token)} is above every num_experts; lower it")
        for name in _COUNTS:
            least = 0 if name in ("num_experts", "experts_per_token", "num_shared_experts", "num_dense_layers") else 1
            for value in getattr(self, name):
                if value < least:
                    raise ValueError(f"{name} holds {value}; it must be {least} or more")
        low, high = self.tokens_per_parameter
        if low > high:
            raise ValueError(f"tokens_per_parameter starts at {low:g}, above its end {high:g}; swap them")
        return self

    @property
    def is_free(self) -> bool:
        """Whether more than one routing is to be chosen from."""
        return len(self.experts) > 1 or len(self.num_experts) * len(self.experts_per_token) > 1

    @property
    def is_dense(self) -> bool:
        """Whether no choice has experts."""
        return not any(choice.num_experts for choice in self.experts) and not any(self.num_experts)


def usual_space(family: Family | None = None, **changes: object) -> SearchSpace:
    """The choices of published large mixture-of-experts models and what lies between them: some millions."""
    values: dict[str, object] = {
        "depth_factors": (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.4),
        "head_factors": (0.75, 1.0, 1.5),
        "num_experts": (8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512),
        "experts_per_token": (1, 2, 3, 4, 6, 8, 10, 12, 16),
        "num_shared_experts": (0, 1, 2),
        "granularity": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16),
        "num_dense_layers": (1, 3),
        "family": family or Family(attention="mla"),
    }
    return SearchSpace.model_validate(values | changes)


def dense_space(like: SearchSpace) -> SearchSpace:
    """Dense models under the limits of another space: FFNs of 2 to 4 times the width, grouped-query attention."""
    none = {"num_experts": 0, "experts_per_token": 0, "num_shared_experts": 0}
    return like.model_copy(
        update={
            "experts": tuple(Experts.model_validate(none | {"granularity": 2 / ratio}) for ratio in (2, 8 / 3, 3.5, 4)),
            **dict.fromkeys(("num_experts", "experts_per_token", "granularity", "expert_ffn_size"), ()),
            "num_shared_experts": (0,),
            "num_dense_layers": (0,),
            "family": like.family.model_copy(update={"attention": "gqa", "moe_output_norm": False}),
        }
    )


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
