"""The training plan: the file that goes from the small runs to the main training stack.

A person can read it, edit it and check it again; every number carries its convention and its source.
"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from fits.html import card
from fits.numbers import count, quantity
from fits.schema import Count, Schema
from trainer_small.architecture import Architecture

_MOST_NEIGHBOURS = 6
"""Shown in a notebook."""
ACCOUNTING = "3 x forward matmuls per token, router and head in, causal attention, embedding look-up out"

CONVENTIONS = {
    "params_active": "parameters one token passes through: embedding, head, router and shared experts in",
    "params_active_non_embedding": "params_active less both embedding matrices",
    "train_flops": f"flops_per_token x tokens; {ACCOUNTING}",
    "six_n_d": "6 x params_active x tokens",
    "inference_flops": "2 x params_active x tokens to be served (arXiv 2401.00448), attention to the context left out",
    "hardware_flops": "GPUs x seconds x peak x utilisation: what the cluster can do, not what the model needs",
    "activation_ratio": "A = (experts_per_token + num_shared_experts) / (num_experts + num_shared_experts)",
    "granularity": "G = 2 x hidden_size / expert_ffn_size (arXiv 2507.17702); arXiv 2402.07871 has 4 x",
    "batch_tokens": "tokens of one optimizer step",
    "loss": "validation cross-entropy, nats per token",
    "bits_per_byte": "validation loss in bits per UTF-8 byte of text, comparable across tokenizers",
}


class Cluster(Schema):
    """The machines and the time: what gives a budget in hardware FLOPs."""

    gpus: Count = Field(gt=0)
    gpu: str
    days: PositiveFloat
    peak_flops_per_gpu: PositiveFloat
    """FLOP/s of the data sheet, dense bf16."""
    utilisation: float = Field(gt=0, le=1)

    @property
    def hardware_flops(self) -> float:
        return self.gpus * self.days * 86400 * self.peak_flops_per_gpu * self.utilisation

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.days * 24


class Budget(Schema):
    """The compute in its three meanings, which differ by up to 30 % for one model."""

    train_flops: PositiveFloat
    """What this plan spends: flops_per_token x tokens."""
    six_n_d: PositiveFloat
    hardware_flops: PositiveFloat | None = None
    inference_flops: PositiveFloat | None = None
    """What serving is set aside from the same budget, when tokens to be served were given."""
    flops_per_token: PositiveFloat
    accounting: str = ACCOUNTING
    cluster: Cluster | None = None

    @classmethod
    def exact(
        cls,
        model: Architecture,
        tokens: int,
        sequence_length: int,
        cluster: Cluster | None = None,
        inference_tokens: float = 0.0,
    ) -> Self:
        """What it takes to train ``model`` on ``tokens``, by its exact counts."""
        per_token = model.flops_per_token(sequence_length)
        return cls(
            train_flops=float(per_token * tokens),
            six_n_d=6.0 * model.params_active * tokens,
            hardware_flops=cluster.hardware_flops if cluster else None,
            inference_flops=2.0 * model.params_active * inference_tokens or None,
            flops_per_token=float(per_token),
            cluster=cluster,
        )


class TokenizerChoice(Schema):
    vocab_size: Count = Field(gt=0)
    file: str | None = None
    """A Hugging Face tokenizer.json of that size, when one was made."""
    source: str


class Data(Schema):
    """What is known of the training text."""

    corpus: str | None = None
    unique_tokens: Count | None = Field(default=None, gt=0)
    epochs: PositiveFloat | None = None
    """Training tokens over unique tokens."""
    effective_tokens: PositiveFloat | None = None
    """Fresh tokens that the repeated ones are worth (arXiv 2305.16264, eq. 5)."""
    bytes_per_token: PositiveFloat | None = None


class Optimizer(Schema):
    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat
    """Peak rate of the hidden matrices."""
    embedding_learning_rate: PositiveFloat | None = None
    """Peak rate of the embedding where it differs (maximal-update parametrization)."""
    source: str
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0.1, ge=0)
    grad_clip: PositiveFloat = 1.0
    init_std: PositiveFloat = 0.006


class Schedule(Schema):
    kind: Literal["wsd", "cosine"] = "wsd"
    warmup_tokens: Count = Field(ge=0)
    decay_tokens: Count = Field(gt=0)
    """Tokens of the final decay; for cosine, all tokens after the warm-up."""
    decay_shape: Literal["sqrt", "linear"] = "sqrt"
    """How wsd decays: by 1 - sqrt (arXiv 2405.18392), or in a straight line, the only one that OLMo-core has."""
    final_learning_rate_fraction: float = Field(default=0.1, ge=0, le=1)


class BatchRamp(Schema):
    """The batch grows in equal steps from ``start_batch_tokens`` to the plan's batch during the first tokens."""

    start_batch_tokens: Count = Field(gt=0)
    increment_tokens: Count = Field(gt=0)
    """What each step adds."""
    ramp_tokens: Count = Field(gt=0)
    """Tokens seen when the full batch is reached."""


class Layout(Schema):
    """Degrees of parallelism of the big run."""

    gpus: Count = Field(gt=0)
    tensor: Count = Field(default=1, gt=0)
    pipeline: Count = Field(default=1, gt=0)
    virtual_pipeline: Count = Field(default=1, gt=0)
    """Chunks of layers on each pipeline stage (interleaved 1F1B); 1 is plain 1F1B."""
    expert: Count = Field(default=1, gt=0)
    expert_tensor: Count = Field(default=1, gt=0)
    context: Count = Field(default=1, gt=0)
    micro_batch_size: Count = Field(default=1, gt=0)
    """Sequences in a micro-batch of one data-parallel rank."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: none; norms, expert activations and latent up-projections
    (selective); or whole layers (full)."""


class LossPoint(Schema):
    """The predicted loss of a run that ends (decayed) at ``tokens``."""

    tokens: Count
    value: float
    low: float
    high: float
    modes: tuple[float, ...] = ()
    """How the law's errors hang together: a drawn curve is value + sum_k z_k modes[k], each z_k standard normal."""


class Prediction(Schema):
    """The promise: the loss at the end, its interval, and the curve to check the run against."""

    quantity: Literal["loss", "bits_per_byte"]
    unit: str
    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    interval: str
    """What low and high are: a bootstrap interval at a level, or the spread of published laws."""
    law: str
    source: str
    curve: tuple[LossPoint, ...] = ()
    run_sd: float | None = Field(default=None, ge=0)
    """Standard deviation of one run about the law's mean at the plan, in ``unit``; None when the law has no runs."""


class Extrapolation(Schema):
    """How far beyond the runs behind the law the plan reaches, in factors of ten; 0 is inside."""

    decades_in_train_flops: float
    decades: dict[str, float] = {}


class Range(Schema):
    low: float
    high: float


class Neighbour(Schema):
    """What it costs to be off: extra compute to reach the plan's loss with one choice changed."""

    change: str
    choice: str = ""
    """The number that changed, and what it became."""
    value: float | None = None
    regret: float | None
    """Fraction of extra compute; None when that shape never reaches the loss."""
    low: float | None = None
    high: float | None = None


class BindingConstraint(Schema):
    """A constraint that holds the plan back, and what loosening it by a stated amount would buy."""

    constraint: str
    limit: float
    relaxed_to: float
    gain: float
    """Compute saved, as a fraction, for the plan's loss."""
    low: float | None = None
    high: float | None = None
    shape: str
    """What the plan would become."""


class ParetoPoint(Schema):
    """One plan that no other beats in loss, training compute, total parameters and decode cost at once."""

    shape: str
    loss: float
    train_flops: PositiveFloat
    params_total: Count
    params_active: Count
    tokens: Count
    decode_seconds: PositiveFloat
    """GPU-seconds to generate a million tokens."""


class Advice(Schema):
    """The same question put to another law, in its own convention."""

    law: str
    source: str
    params_active: float | None = None
    tokens: float | None = None
    learning_rate: float | None = None
    batch_tokens: float | None = None
    weight_decay: float | None = None
    loss: float | None = None
    params_total: float | None = None
    shape: str = ""
    """The best shape by this law under the plan's own constraints, when the law can price one."""
    regret: float | None = None
    """Extra compute, as a fraction, that the plan's shape would need to be as good, by this law."""
    decades_out_of_range: float | None = None
    note: str = ""


class Serving(Schema):
    """What generating costs, as a roofline of one GPU type; an assumption is part of the number."""

    gpu: str
    inference_tokens: PositiveFloat | None = None
    context: Count = Field(gt=0)
    """Tokens before the one that is generated."""
    batch: Count = Field(gt=0)
    """Sequences generated at once."""
    decode_seconds: PositiveFloat
    """GPU-seconds to generate a million tokens."""
    kv_bytes_per_token: PositiveFloat
    assumptions: str


class LayoutEstimate(Schema):
    """What the cost model says of the plan's layout; ``scaling layout`` lists all others."""

    memory_gib: PositiveFloat
    """On the fullest GPU."""
    step_seconds: PositiveFloat
    days: PositiveFloat
    """Wall time without stops."""
    tflops_per_gpu: PositiveFloat
    """Model TFLOP/s by the exact count, causal attention."""


class Provenance(Schema):
    tool_version: str
    law: str | None = None
    law_file: str | None = None
    law_sha256: str | None = None
    """Identity of the fit: the hash of its file, draws included."""
    runs_sha256: str | None = None
    versions: dict[str, str] = {}

    @classmethod
    def of(cls, law_file: str | Path | None = None, *, runs_sha256: str | None = None, law: str | None = None) -> Self:
        """This version of the tool, the law's file by its hash, and the hash of the runs that were fitted."""
        return cls(
            tool_version=importlib.metadata.version("moe-scaling"),
            law=law,
            law_file=str(law_file) if law_file else None,
            law_sha256=hashlib.sha256(Path(law_file).read_bytes()).hexdigest() if law_file else None,
            runs_sha256=runs_sha256,
            versions={name: importlib.metadata.version(name) for name in ("numpy", "scipy", "pydantic")},
        )


class TrainingPlan(Schema):
    """Everything the main training stack needs to know, and why it is so."""

    schema_version: Literal[1] = 1
    name: str
    question: str
    model: Architecture
    tokens: Count = Field(gt=0)
    sequence_length: Count = Field(gt=0)
    batch_tokens: Count = Field(gt=0)
    batch_ramp: BatchRamp | None = None
    optimizer: Optimizer
    schedule: Schedule
    tokenizer: TokenizerChoice
    data: Data | None = None
    precision: Literal["bf16", "fp8", "fp32"] = "bf16"
    layout: Layout | None = None
    layout_estimate: LayoutEstimate | None = None
    serving: Serving | None = None
    budget: Budget
    prediction: Prediction
    extrapolation: Extrapolation
    decision: dict[str, Range] = {}
    """Interval of each decision over the law's bootstrap draws."""
    flat_region: dict[str, Range] = {}
    """Range of each decision among the shapes that cost at most 1 % more compute."""
    neighbours: tuple[Neighbour, ...] = ()
    binding: tuple[BindingConstraint, ...] = ()
    pareto: tuple[ParetoPoint, ...] = ()
    advice: tuple[Advice, ...] = ()
    """The spread of published laws at this budget."""
    warnings: tuple[str, ...] = ()
    conventions: dict[str, str] = CONVENTIONS
    provenance: Provenance

    def _repr_html_(self) -> str:
        """The answer, each decision's interval, what it costs to be off, and the warnings."""
        model, predicted = self.model, self.prediction
        rows = [
            ["parameters", f"{count(model.params_total)}, {count(model.params_active)} active"],
            ["shape", f"{model.hidden_size} wide, {model.num_layers} layers, {model.num_attention_heads} heads"],
            [
                "experts",
                f"{model.experts_per_token} of {model.num_experts} and {model.num_shared_experts} shared, "
                f"each {model.expert_ffn_size} wide",
            ],
            ["vocabulary", f"{model.vocab_size:,}"],
            ["tokens", f"{count(self.tokens)} in batches of {self.batch_tokens:,}: {self.steps:,} steps"],
            ["learning rate", quantity(self.optimizer.learning_rate)],
            ["training FLOPs", f"{self.budget.train_flops:.4g}"],
            [
                f"predicted {predicted.quantity}",
                f"{predicted.value:.4f} ({predicted.low:.4f} to {predicted.high:.4f}) {predicted.unit}; "
                f"{predicted.interval}",
            ],
            ["beyond the law's runs", f"{self.extrapolation.decades_in_train_flops:.1f} decades of compute"],
        ]
        for name, each in self.decision.items():
            rows.append([f"{name}, by the law's draws", f"{quantity(each.low)} to {quantity(each.high)}"])
        for each in self.neighbours[:_MOST_NEIGHBOURS]:
            cost = "never reaches the loss" if each.regret is None else f"{each.regret:+.1%} compute"
            if each.low is not None and each.high is not None:
                cost += f" ({each.low:+.1%} to {each.high:+.1%})"
            rows.append([f"instead {each.change}", cost])
        return card(self.name, about=self.question, rows=rows, notes=self.warnings)

    @property
    def steps(self) -> int:
        """Optimizer steps: tokens over batch_tokens, rounded up."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def batch_size(self) -> int:
        """Sequences of one optimizer step."""
        return self.batch_tokens // self.sequence_length

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokenizer.vocab_size > self.model.vocab_size:
            raise ValueError(
                f"tokenizer.vocab_size {self.tokenizer.vocab_size} is above model.vocab_size {self.model.vocab_size}; "
                "enlarge the model's vocabulary"
            )
        if self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of sequence_length {self.sequence_length}; "
                "round it to whole sequences"
            )
        ramp = self.batch_ramp
        if ramp and (ramp.start_batch_tokens % self.sequence_length or ramp.increment_tokens % self.sequence_length):
            raise ValueError(
                f"batch_ramp steps of {ramp.start_batch_tokens} and {ramp.increment_tokens} tokens are not whole "
                f"sequences of {self.sequence_length}; round them"
            )
        if ramp and (self.batch_tokens - ramp.start_batch_tokens) % ramp.increment_tokens:
            raise ValueError(
                f"batch_ramp.increment_tokens {ramp.increment_tokens} does not lead from "
                f"{ramp.start_batch_tokens} to batch_tokens {self.batch_tokens} in whole steps; choose a divisor"
            )
        if self.schedule.warmup_tokens + self.schedule.decay_tokens > self.tokens:
            raise ValueError(
                f"schedule.warmup_tokens {self.schedule.warmup_tokens} + decay_tokens {self.schedule.decay_tokens} "
                f"exceed tokens {self.tokens}; shorten them"
            )
        expected = self.model.flops_per_token(self.sequence_length) * self.tokens
        if abs(self.budget.train_flops / expected - 1) > 1e-6:
            raise ValueError(
                f"budget.train_flops {self.budget.train_flops:.6g} is not flops_per_token x tokens = {expected:.6g}; "
                "plan again after changing the model or the tokens, or correct the budget"
            )
        return self
