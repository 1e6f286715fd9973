"""What every stack is told about the run: the plan in optimizer steps and sequences, without its reasons."""

from dataclasses import dataclass
from typing import Literal

from scaling.plan import Layout, TrainingPlan
from trainer_small.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Run:
    """The part of a plan that a training stack takes; read back from a stack's own file it must be the same."""

    model: Architecture
    sequence_length: int
    batch_size: int
    """Sequences of one optimizer step."""
    steps: int
    warmup_steps: int
    decay_steps: int
    """Steps of the final decay; for a cosine, all after the warm-up."""
    schedule: Literal["wsd", "cosine"]
    learning_rate: float
    min_learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip: float
    init_std: float
    precision: Literal["bf16", "fp8", "fp32"]
    layout: Layout | None


def run_of(plan: TrainingPlan) -> Run:
    """The plan's run. Tokens are rounded up to whole steps; the warm-up and the decay fit inside them."""
    optimizer, schedule = plan.optimizer, plan.schedule
    warmup = min(-(-schedule.warmup_tokens // plan.batch_tokens), plan.steps - 1)
    decay = -(-schedule.decay_tokens // plan.batch_tokens) if schedule.kind == "wsd" else plan.steps
    return Run(
        model=plan.model,
        sequence_length=plan.sequence_length,
        batch_size=plan.batch_size,
        steps=plan.steps,
        warmup_steps=warmup,
        decay_steps=min(decay, plan.steps - warmup),
        schedule=schedule.kind,
        learning_rate=optimizer.learning_rate,
        min_learning_rate=optimizer.learning_rate * schedule.final_learning_rate_fraction,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        grad_clip=optimizer.grad_clip,
        init_std=optimizer.init_std,
        precision=plan.precision,
        layout=plan.layout,
    )


def shown_name(plan: TrainingPlan) -> str:
    """The plan's name for a comment or a docstring: one line, without quotes and backslashes."""
    return " ".join("".join(" " if mark in "\"'\\" else mark for mark in plan.name).split())
