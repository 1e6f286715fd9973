"""What every stack is told about the run: the plan in optimizer steps and sequences, without its reasons."""

import math
from dataclasses import dataclass
from typing import Literal

from scaling.cluster.stages import chunk_layers
from scaling.plan import Layout, TrainingPlan
from trainer_small.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The batch in sequences: from ``start`` by ``increment`` to the full one, reached after ``samples`` sequences."""

    start: int
    increment: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """The part of a plan that a training stack takes; read back from a stack's own file it must be the same."""

    model: Architecture
    sequence_length: int
    batch_size: int
    """Sequences of one optimizer step."""
    batch_ramp: Ramp | None = None
    steps: int
    """Optimizer steps; with a ramp, what they would be at the full batch (as warmup_steps and decay_steps are)."""
    warmup_steps: int
    decay_steps: int
    """Steps of the final decay; for a cosine, all after the warm-up."""
    schedule: Literal["wsd", "cosine"]
    decay_shape: Literal["sqrt", "linear"] = "sqrt"
    """Of wsd's decay."""
    learning_rate: float
    embedding_learning_rate: float | None = None
    min_learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip: float
    init_std: float
    precision: Literal["bf16", "fp8", "fp32"]
    layout: Layout | None
    stage_layers: tuple[int, ...] = ()
    """Layers of each pipeline chunk in order, embedding and head not counted; empty without a layout."""

    def learning_rate_after(self, steps: float) -> float:
        """The rate when ``steps`` steps of the full batch are done; stacks differ by one step in when they ask."""
        start = self.steps - self.decay_steps
        if steps < self.warmup_steps:
            return self.learning_rate * steps / self.warmup_steps
        done = min(max(steps - start, 0) / self.decay_steps, 1)
        if self.schedule == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * done))
        else:
            left = 1 - (math.sqrt(done) if self.decay_shape == "sqrt" else done)
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * left


def run_of(plan: TrainingPlan) -> Run:
    """The plan's run. Tokens are rounded up to whole steps; the warm-up and the decay fit inside them."""
    optimizer, schedule, ramp, layout = plan.optimizer, plan.schedule, plan.batch_ramp, plan.layout
    warmup = min(-(-schedule.warmup_tokens // plan.batch_tokens), plan.steps - 1)
    decay = -(-schedule.decay_tokens // plan.batch_tokens) if schedule.kind == "wsd" else plan.steps
    return Run(
        model=plan.model,
        sequence_length=plan.sequence_length,
        batch_size=plan.batch_size,
        batch_ramp=Ramp(
            start=ramp.start_batch_tokens // plan.sequence_length,
            increment=ramp.increment_tokens // plan.sequence_length,
            samples=ramp.ramp_tokens // plan.sequence_length,
        )
        if ramp
        else None,
        steps=plan.steps,
        warmup_steps=warmup,
        decay_steps=min(decay, plan.steps - warmup),
        schedule=schedule.kind,
        decay_shape=schedule.decay_shape if schedule.kind == "wsd" else "sqrt",
        learning_rate=optimizer.learning_rate,
        embedding_learning_rate=optimizer.embedding_learning_rate,
        min_learning_rate=optimizer.learning_rate * schedule.final_learning_rate_fraction,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        grad_clip=optimizer.grad_clip,
        init_std=optimizer.init_std,
        precision=plan.precision,
        layout=layout,
        stage_layers=usual_stages(plan.model, layout) if layout else (),
    )


def usual_stages(model: Architecture, layout: Layout) -> tuple[int, ...]:
    """Layers of each pipeline chunk as the memory and time model splits them; empty when there are too few."""
    chunks = layout.pipeline * layout.virtual_pipeline
    return tuple(chunk_layers(model, chunks)) if chunks <= model.num_layers else ()


def shown_name(plan: TrainingPlan) -> str:
    """The plan's name for a comment or a docstring: one line, without quotes and backslashes."""
    return " ".join("".join(" " if mark in "\"'\\" else mark for mark in plan.name).split())
