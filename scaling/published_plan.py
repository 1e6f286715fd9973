"""A training plan by published laws alone: for a team without runs of its own, and to see what the laws say.

Size and tokens by the allocation of Tian et al. (arXiv 2507.17702), experts and granularity by its efficiency
leverage, vocabulary by Tao et al. (arXiv 2407.13623, approach 2), learning rate and batch by Tian et al., and the loss
of the dense model that the leverage makes it equal to (Besiroglu et al., arXiv 2404.10102). Every number says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fits.allocate import optimal_allocation, surface
from fits.coefficients import published
from scaling.advice import advice_at
from scaling.budget import short
from scaling.plan import (
    Budget,
    Cluster,
    Extrapolation,
    Neighbour,
    Optimizer,
    Prediction,
    Provenance,
    Schedule,
    TokenizerChoice,
    TrainingPlan,
)
from scaling.recipe import round_batch
from scaling.shapes import SearchSpace, candidates
from trainer_small.architecture import Architecture
from trainer_small.ladder import Experts, Family

_NEAR = math.log(1.05)
"""A shape is compute-optimal by the allocation law when its FLOPs per token are this near (in logs) to the law's."""
_WARMUP_STEPS = 2000
"""As DeepSeek-V3 (arXiv 2412.19437, section 4.2)."""


def published_space(vocab_size: int, max_params_total: float | None = None) -> SearchSpace:
    """Routing choices around the published large models: 8 to 48 experts for each one that a token visits."""
    routing = ((4, 4), (6, 6), (8, 7), (8, 8), (12, 12))
    experts = tuple(
        Experts(num_experts=k * ratio, experts_per_token=k, num_shared_experts=1, granularity=granularity)
        for k, granularity in routing
        for ratio in (8, 16, 24, 32, 48)
    )
    family = Family(attention="mla", num_dense_layers=1, router_score_function="sigmoid", moe_output_norm=True)
    return SearchSpace(experts=experts, vocab_size=(vocab_size,), family=family, max_params_total=max_params_total)


def plan_by_published_laws(
    train_flops: float,
    *,
    cluster: Cluster | None = None,
    sequence_length: int = 4096,
    vocab_size: int | None = None,
    max_params_total: float | None = None,
    name: str = "published",
) -> TrainingPlan:
    """What published laws advise for a budget.

    Args:
        train_flops: exact training FLOPs to spend.
        vocab_size: held when given; otherwise approach 2 of Tao et al., rounded to a multiple of 128.
        max_params_total: what memory and serving allow; the leverage law alone always asks for more experts.

    Raises:
        UserError: no shape fits the budget and the cap.
    """
    chosen = _choose(train_flops, sequence_length, vocab_size or 131072, max_params_total)
    for _ in range(0 if vocab_size else 3):  # the advice on the vocabulary depends on the shape it is for
        chosen = _choose(train_flops, sequence_length, _tao_vocabulary(chosen.shape), max_params_total)
    shape, laws = chosen.shape, _Laws(train_flops)
    batch_tokens = round_batch(laws.batch_tokens, sequence_length)
    per_token = shape.flops_per_token(sequence_length)
    tokens = max(int(train_flops / per_token // batch_tokens), 1) * batch_tokens
    leverage = published("tian-leverage")
    return TrainingPlan(
        name=name,
        question=f"What do published laws advise for {short(train_flops)} training FLOPs?",
        model=shape,
        tokens=tokens,
        sequence_length=sequence_length,
        batch_tokens=batch_tokens,
        optimizer=Optimizer(
            learning_rate=laws.learning_rate,
            source=f"{published('tian-learning-rate').source}; weight decay, betas and clipping as in its runs",
        ),
        schedule=Schedule(
            warmup_tokens=min(_WARMUP_STEPS * batch_tokens, tokens // 100),
            decay_tokens=tokens // 5,
        ),
        tokenizer=TokenizerChoice(
            vocab_size=shape.vocab_size,
            source="given" if vocab_size else f"{published('tao-derivative').source}, on active parameters; x 128",
        ),
        budget=Budget.exact(shape, tokens, sequence_length, cluster),
        prediction=_prediction(train_flops, shape, tokens),
        extrapolation=Extrapolation(
            decades_in_train_flops=round(leverage.decades_outside("C", train_flops) or 0.0, 3),
            decades={
                "A": round(leverage.decades_outside("A", shape.activation_ratio) or 0.0, 3),
                "G": round(leverage.decades_outside("G", shape.granularity) or 0.0, 3),
            },
        ),
        neighbours=tuple(_neighbours(chosen, train_flops)),
        advice=tuple(advice_at(train_flops, shape=shape, tokens=tokens)),
        warnings=tuple(_warnings(chosen, train_flops, max_params_total)),
        provenance=Provenance.of(),
    )


@dataclass(frozen=True)
class _Laws:
    train_flops: float

    @property
    def learning_rate(self) -> float:
        return float(published("tian-learning-rate").evaluate(C=self.train_flops).value)

    @property
    def batch_tokens(self) -> float:
        return float(published("tian-batch").evaluate(C=self.train_flops).value)


@dataclass(frozen=True)
class _Chosen:
    """The shape of highest leverage among those near the allocation law's FLOPs per token."""

    shape: Architecture
    near: tuple[Architecture, ...]
    train_flops: float

    def leverage(self, shape: Architecture) -> float:
        return _leverage(shape.activation_ratio, shape.granularity, self.train_flops)


def _leverage(activation_ratio: float, granularity: float, train_flops: float) -> float:
    asked = {"A": activation_ratio, "G": granularity, "C": train_flops}
    return float(published("tian-leverage").evaluate(**asked).value)


def _non_embedding_flops(shape: Architecture, sequence_length: int) -> int:
    return shape.flops_per_token(sequence_length) - 6 * shape.vocab_size * shape.hidden_size


def _choose(train_flops: float, sequence_length: int, vocab_size: int, max_params_total: float | None) -> _Chosen:
    target = float(published("tian-moe-model").evaluate(C=train_flops).value)
    shapes = [
        shape for shape, _ in candidates(published_space(vocab_size, max_params_total), train_flops, sequence_length)
    ]

    def distance(shape: Architecture) -> float:
        return abs(math.log(_non_embedding_flops(shape, sequence_length) / target))

    closest = min(map(distance, shapes))
    near = tuple(shape for shape in shapes if distance(shape) <= max(_NEAR, closest * 1.001))
    best = max(
        near, key=lambda shape: (_leverage(shape.activation_ratio, shape.granularity, train_flops), -distance(shape))
    )
    return _Chosen(best, near, train_flops)


def _tao_vocabulary(shape: Architecture) -> int:
    size = published("tao-derivative").evaluate(N=float(shape.params_active_non_embedding), d=float(shape.hidden_size))
    return max(round(float(size.value) / 128), 4) * 128


def _prediction(train_flops: float, shape: Architecture, tokens: int) -> Prediction:
    """The loss of the dense optimum at leverage x C, between what the loss laws say of N and D directly."""
    leverage = _leverage(shape.activation_ratio, shape.granularity, train_flops)
    dense = published("besiroglu")
    value = optimal_allocation(surface(dense), leverage * train_flops).loss.value
    size = float(shape.params_active)
    spread = {
        name: float(published(name).evaluate(N=size, D=float(tokens)).value) for name in ("besiroglu", "hoffmann")
    }
    experts = min(shape.num_experts, 32)
    spread["joint-moe"] = float(published("joint-moe").evaluate(N=size, D=float(tokens), E=float(experts)).value)
    listed = ", ".join(f"{name} {loss:.3f}" for name, loss in spread.items())
    return Prediction(
        quantity="loss",
        unit="nats/token, of each law's own corpus and tokenizer",
        value=value,
        low=min(value, *spread.values()),
        high=max(value, *spread.values()),
        interval=f"not an interval but the spread of published laws at this size and data: {listed}; corpora differ",
        law="besiroglu at leverage x C",
        source=f"{dense.source}, with a leverage of {leverage:.1f} over dense by {published('tian-leverage').source}",
    )


def _neighbours(chosen: _Chosen, train_flops: float) -> Iterator[Neighbour]:
    """Other routings at the same size: the extra compute is the ratio of the leverages."""
    best, shape = chosen.leverage(chosen.shape), chosen.shape
    seen = {(shape.num_experts, shape.expert_ffn_size)}
    for other in sorted(chosen.near, key=chosen.leverage, reverse=True):
        routing = (other.num_experts, other.expert_ffn_size)
        if routing not in seen and other.hidden_size == shape.hidden_size:
            seen.add(routing)
            change = f"{other.num_experts} experts, top {other.experts_per_token}, G {other.granularity:.3g}"
            yield Neighbour(change=change, regret=best / chosen.leverage(other) - 1)


def _warnings(chosen: _Chosen, train_flops: float, max_params_total: float | None) -> Iterator[str]:
    yield (
        "made from published laws only: their corpora, tokenizers and recipes are not yours, and no interval is "
        "published for these decisions"
    )
    shape = chosen.shape
    decades = published("tian-leverage").decades_outside("C", train_flops) or 0.0
    if decades > 0:
        yield f"efficiency leverage is asked {decades:.1f} decades of compute beyond the runs behind it"
    free = _leverage(1 / 48, shape.granularity, train_flops)
    if max_params_total and chosen.leverage(shape) < 0.99 * free:
        yield (
            f"the cap of {max_params_total:.3g} total parameters binds: the leverage is {chosen.leverage(shape):.1f} "
            f"where a model with 1 in 48 experts active would have {free:.1f}; the law always asks for more experts"
        )
    built = [advice for advice in advice_at(train_flops, shape=shape, tokens=1) if advice.law.endswith("as built")]
    actives = [advice.params_active for advice in built if advice.params_active]
    if actives and not min(actives) / 1.5 <= shape.params_active <= max(actives) * 1.5:
        yield (
            f"the laws ask for {shape.params_active / 1e9:.0f}B active parameters; models built with a similar budget "
            f"have {min(actives) / 1e9:.0f}B to {max(actives) / 1e9:.0f}B"
        )
