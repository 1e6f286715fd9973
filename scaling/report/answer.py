"""The answer in front: a plan as a headline, its decisions with intervals, and plain words about how sure they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from fits import Fit
from scaling.plan import Advice, Range, TrainingPlan
from scaling.report.numbers import NOTHING, about, flops, percent, plain, quantity, share, short, vocabulary
from trainer_small.architecture import Architecture

_FAR = 1.0
"""Decades of extrapolation from which the page warns in large type."""
_WIDE_DECISION, _WIDE_LOSS = 2.0, 0.05


_COUNTS = ("params_active", "params_total", "tokens")


@dataclass(frozen=True)
class Fact:
    """One figure of the card: what it is, its value, what to know beside it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """One row of the table of decisions."""

    name: str
    value: str
    interval: str
    flat: str
    wide: bool = False


def model_name(shape: Architecture) -> str:
    """Total and active parameters as people name such models: 519B-A32.8B."""
    return f"{short(shape.params_total)}-A{short(shape.params_active)}" if shape.is_moe else short(shape.params_total)


def headline(plan: TrainingPlan) -> str:
    """The answer in one sentence, after the model's name."""
    shape = plan.model
    routing = (
        f"{shape.num_experts} experts ({shape.experts_per_token} a token"
        + (f", and {shape.num_shared_experts} shared)" if shape.num_shared_experts else ")")
        if shape.is_moe
        else "dense"
    )
    return (
        f"{shape.hidden_size} wide, {shape.num_layers} layers, {routing}, a vocabulary of "
        f"{vocabulary(shape.vocab_size)}, trained on {short(plan.tokens)} tokens."
    )


def card(plan: TrainingPlan) -> list[Fact]:
    """The figures that decide."""
    prediction, beyond = plan.prediction, plan.extrapolation.decades_in_train_flops
    facts = [
        Fact(
            "predicted " + prediction.quantity.replace("_", " "),
            quantity(prediction.value),
            f"{quantity(prediction.low)} to {quantity(prediction.high)} {prediction.unit}",
        ),
        Fact("tokens", short(plan.tokens), f"{about(plan.tokens / plan.model.params_active)} per active parameter"),
        Fact("training FLOPs", flops(plan.budget.train_flops), f"6ND would say {flops(plan.budget.six_n_d)}"),
        Fact(
            "extrapolated",
            f"{beyond:.1f} decades" if beyond >= 0.05 else "none",
            f"{about(10**beyond)} x the largest run behind the law" if beyond >= 0.05 else "",
        ),
    ]
    cluster = plan.budget.cluster
    if cluster:
        note = f"{cluster.days:g} days at {share(cluster.utilisation)} of the peak"
        facts.append(Fact("cluster", f"{cluster.gpus} {cluster.gpu.upper()}", note))
    return facts


def alarms(plan: TrainingPlan, fit: Fit | None) -> Iterator[str]:
    """What must be said in large type before anyone acts on the plan; ``fit`` is the law behind it, when it is ours."""
    if fit is not None:
        yield from _undetermined(fit)
    prediction, beyond = plan.prediction, plan.extrapolation.decades_in_train_flops
    if beyond >= _FAR:
        yield (
            f"No run behind the law comes within {beyond:.1f} decades of this compute. The intervals hold only if the "
            "law keeps its form that far; they do not cover a law of the wrong form."
        )
    if prediction.high / prediction.low > 1 + _WIDE_LOSS:
        yield (
            f"The predicted {prediction.quantity.replace('_', ' ')} is uncertain by "
            f"{share(prediction.high / prediction.low - 1)} "
            f"({quantity(prediction.low)} to {quantity(prediction.high)})."
        )
    size = plan.decision.get("params_active")
    if size and is_wide(size.low, size.high):
        yield (
            f"The best size is known only to {short(size.low)} to {short(size.high)} active parameters, "
            f"a factor of {about(size.high / size.low)}. The regret below says what that costs."
        )


def _undetermined(fit: Fit) -> Iterator[str]:
    """A plan is no better than its law."""
    facts = fit.convergence
    faults = [] if facts.converged else ["its search has not converged"]
    if facts.starts_at_best == 1 and facts.starts > 3:
        faults.append(f"only 1 of {facts.starts} descents reached its optimum")
    stuck = [*facts.at_bound, *facts.at_start]
    if stuck:
        faults.append(f"{', '.join(stuck)} ended at a bound or without effect")
    if facts.condition_number is None:
        faults.append("some of its parameters cannot be told apart")
    if faults:
        yield f"The law {fit.law} is not settled by these runs: {'; '.join(faults)}."


def is_built(advice: Advice) -> bool:
    """Whether it is no law's advice but a model that others built."""
    return advice.law.endswith("as built")


def is_wide(low: float, high: float) -> bool:
    """Whether the interval of a decision spans more than a factor of two."""
    return low <= 0 or high / low > _WIDE_DECISION


def decisions(plan: TrainingPlan) -> list[Decision]:
    """What the law decides: value, interval over the law's draws, and the range that costs at most 1 % more."""
    shape = plan.model
    values = {
        "params_active": shape.params_active,
        "params_total": shape.params_total,
        "tokens": plan.tokens,
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_layers,
        "num_experts": shape.num_experts,
        "granularity": shape.granularity,
        "vocab_size": shape.vocab_size,
    }
    rows = []
    for name, value in values.items():
        form = {"vocab_size": vocabulary, "granularity": quantity}.get(name, short if name in _COUNTS else plain)
        found, flat = plan.decision.get(name), plan.flat_region.get(name)
        wide = found is not None and is_wide(found.low, found.high)
        rows.append(Decision(name, form(value), _between(found, form), _between(flat, form), wide))
    return rows


def _between(found: Range | None, form) -> str:
    if found is None:
        return NOTHING
    low, high = form(found.low), form(found.high)
    return low if low == high else f"{low} to {high}"


def recipe(plan: TrainingPlan) -> list[Fact]:
    """The rest of what the stack needs to know."""
    shape, optimizer, schedule = plan.model, plan.optimizer, plan.schedule
    heads = f"{shape.num_attention_heads} heads"
    if shape.attention == "gqa":
        heads += f", {shape.num_key_value_heads} of keys and values"
    rate = optimizer.embedding_learning_rate
    facts = [
        Fact("attention", shape.attention, heads),
        Fact("experts_per_token", str(shape.experts_per_token), f"and {shape.num_shared_experts} shared"),
        Fact("expert_ffn_size", str(shape.expert_ffn_size), f"granularity {quantity(shape.granularity)}"),
        Fact("num_dense_layers", str(shape.num_dense_layers), f"dense_ffn_size {shape.dense_ffn_size}"),
        Fact("activation_ratio", quantity(shape.activation_ratio)),
        Fact("sequence_length", str(plan.sequence_length)),
        Fact("batch_tokens", short(plan.batch_tokens), f"{plan.batch_size} sequences, {short(plan.steps)} steps"),
        Fact("learning_rate", quantity(optimizer.learning_rate), "peak, hidden matrices"),
        *([Fact("embedding_learning_rate", quantity(rate), "peak")] if rate else []),
        Fact("schedule", schedule.kind, _schedule(plan)),
        Fact("optimizer", optimizer.name, _optimizer(plan)),
        Fact("tokenizer", vocabulary(plan.tokenizer.vocab_size), plan.tokenizer.source),
        Fact("precision", plan.precision),
    ]
    return facts if shape.is_moe else [fact for fact in facts if "expert" not in fact.label]


def _schedule(plan: TrainingPlan) -> str:
    schedule = plan.schedule
    return (
        f"warm-up {short(schedule.warmup_tokens)} tokens, decay over {short(schedule.decay_tokens)} "
        f"to {share(schedule.final_learning_rate_fraction)} of the peak"
    )


def _optimizer(plan: TrainingPlan) -> str:
    chosen = plan.optimizer
    return (
        f"betas {chosen.beta1:g}, {chosen.beta2:g}; weight decay {chosen.weight_decay:g}; clip {chosen.grad_clip:g}; "
        f"init {quantity(chosen.init_std)}"
    )


@dataclass(frozen=True)
class Account:
    """One meaning of the budget."""

    name: str
    meaning: str
    value: str
    ratio: str


def accounts(plan: TrainingPlan) -> list[Account]:
    """The budget in its meanings, each against the exact count."""
    budget, exact = plan.budget, plan.budget.train_flops
    rows = [
        Account("exact", budget.accounting, flops(exact), NOTHING),
        Account("6ND", plan.conventions.get("six_n_d", ""), flops(budget.six_n_d), percent(budget.six_n_d / exact - 1)),
    ]
    if budget.hardware_flops:
        meaning = plan.conventions.get("hardware_flops", "")
        ratio = percent(budget.hardware_flops / exact - 1)
        rows.append(Account("hardware", meaning, flops(budget.hardware_flops), ratio))
    return rows
