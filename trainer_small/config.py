"""What one run is: ``config.yaml`` in the run's folder. Nothing here imports torch."""

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, model_validator

from fits.schema import Count, Schema
from trainer_small.architecture import Architecture
from trainer_small.supported import why_not_trainable

_NOT_THE_NUMBERS = ("data", "purpose", "run_id", "checkpoint_seconds", "saved_at", "trunk")


class DataConfig(Schema):
    tokens: str
    """Folder made by ``prepare_tokens``: absolute, or relative to the run's folder."""


class TrainingConfig(Schema):
    """The recipe. Learning rates are AdamW's; ``batch_tokens`` is tokens in one optimizer step."""

    tokens: Count
    """Tokens to train on; rounded to a whole number of steps."""
    sequence_length: Count = 128
    batch_tokens: Count = 2048
    micro_batch_tokens: Count | None = None
    """Tokens in one forward and backward pass; ``None`` takes the whole batch at once."""
    learning_rate: float
    """Peak rate of the base model; the parametrization scales it for each group of parameters."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """Warm-up, then constant with a 1 - sqrt decay at the end (arXiv 2405.18392), or one cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps that warm up, unless ``warmup_tokens`` says how long."""
    warmup_tokens: Count | None = None
    """Warm-up of the same length at every horizon: what a trunk and its branches need."""
    decay_fraction: float = 0.2
    """Share of the steps that decay (WSD only)."""
    final_learning_rate_fraction: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off (the norm is still recorded)."""
    parametrization: Literal["mup", "standard"] = "mup"
    base_hidden_size: Count = 64
    base_expert_ffn_size: Count = 64
    base_num_layers: Count = 4
    embedding_rate_factor: float = 64.0
    """muP only: the input table's rate over ``learning_rate``. A table starts at 1 and each row is met seldom, so at
    factor 1 short runs end before it has moved; flat from 32 to 128 (``benchmarks/embedding_rate.py``)."""
    balancing: Literal["bias", "auxiliary_loss", "none"] = "bias"
    """How the router's load is balanced: selection bias (arXiv 2408.15664), auxiliary loss (arXiv 2101.03961)."""
    balancing_rate: float = 1e-3
    """Step of the selection bias, or weight of the auxiliary loss."""
    router_z_loss: float = 0.0
    """Weight of the router's z-loss (arXiv 2202.08906)."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, round(self.tokens / self.batch_tokens))

    @property
    def tokens_trained(self) -> int:
        """Tokens the run sees: whole steps only."""
        return self.steps * self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        if self.warmup_tokens is not None:
            return self.step_at(self.warmup_tokens)
        return round(self.warmup_fraction * self.steps)

    @property
    def decay_start(self) -> int:
        """Step before which nothing depends on the horizon: the end of the constant stretch, or of the warm-up."""
        if self.schedule == "cosine":
            return self.warmup_steps
        return self.steps - round(self.decay_fraction * self.steps)

    def step_at(self, tokens: int) -> int:
        """Optimizer steps after which a run has seen ``tokens``, to the nearest step."""
        return round(tokens / self.batch_tokens)

    def tokens_at(self, step: int) -> int:
        """Tokens seen after ``step`` optimizer steps."""
        return step * self.batch_tokens

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("tokens", "sequence_length", "batch_tokens", "learning_rate"):
            _above_zero(self, key)
        for key in ("base_hidden_size", "base_expert_ffn_size", "base_num_layers", "embedding_rate_factor"):
            _above_zero(self, key)
        for key in ("warmup_fraction", "decay_fraction", "final_learning_rate_fraction"):
            _within_one(self, key)
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least 0 and below 1")
        for key in ("weight_decay", "grad_clip", "balancing_rate", "router_z_loss"):
            _not_negative(self, key)
        if self.warmup_tokens is not None:
            _not_negative(self, "warmup_tokens")
            if self.warmup_steps > self.decay_start:
                raise ValueError(
                    f"warmup_tokens {self.warmup_tokens} and decay_fraction {self.decay_fraction} "
                    f"together are above tokens {self.tokens}; lower one"
                )
        elif self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction {self.warmup_fraction} and decay_fraction {self.decay_fraction} "
                "together are above 1; lower one"
            )
        for key in ("batch_tokens", "micro_batch_tokens"):
            size = getattr(self, key)
            if size is not None and (size <= 0 or size % self.sequence_length):
                raise ValueError(
                    f"{key} {size} is not a multiple of sequence_length {self.sequence_length}; choose one"
                )
        if self.micro_batch_tokens and self.batch_tokens % self.micro_batch_tokens:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} does not divide batch_tokens {self.batch_tokens}; "
                "choose a divisor"
            )
        return self


class EvaluationConfig(Schema):
    validation_bytes: Count | None = 262144
    """Bytes of validation text to score, in whole documents; ``None`` scores all of it."""
    earlier_points: Count = 0
    """Evaluations before the last one, at 1/2, 1/4, 1/8 ... of the steps."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation_bytes is not None:
            _above_zero(self, "validation_bytes")
        _not_negative(self, "earlier_points")
        return self


class Trunk(Schema):
    """Where a run leaves another: it takes that run's whole state there instead of training up to it."""

    run_id: str
    """The trunk's folder beside this run's."""
    tokens: Count
    """Tokens after which the branch leaves: one of the trunk's ``saved_at``, before either's decay."""


class RunSpec(Schema):
    """A run as a sweep lists it: everything but where its tokens lie."""

    run_id: str
    purpose: str = ""
    architecture: Architecture
    training: TrainingConfig
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    seed: Count = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; parameters, router, norms' statistics and loss stay in float32."""
    checkpoint_seconds: float = 60.0
    saved_at: tuple[Count, ...] = ()
    """Tokens after which the whole state is kept for good, so that branches can leave there; before the decay."""
    trunk: Trunk | None = None
    """The run that this one is a branch of; its end is that of an independent run, bit for bit on a CPU."""

    @property
    def train_flops(self) -> int:
        """Training FLOPs of the whole horizon: causal attention, head in."""
        return self._flops_per_token * self.training.tokens_trained

    @property
    def first_step(self) -> int:
        """Steps that a trunk has done for this run; 0 when it has none."""
        return self.training.step_at(self.trunk.tokens) if self.trunk else 0

    @property
    def tokens_spent(self) -> int:
        """Tokens this run trains on itself: a branch's own part of the horizon."""
        return self.training.tokens_trained - self.training.tokens_at(self.first_step)

    @property
    def train_flops_spent(self) -> int:
        """Training FLOPs of ``tokens_spent``: what the run adds to the bill."""
        return self._flops_per_token * self.tokens_spent

    @property
    def _flops_per_token(self) -> int:
        return self.architecture.flops_per_token(self.training.sequence_length)

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if not self.run_id or self.run_id != self.run_id.strip("./ ") or "/" in self.run_id:
            raise ValueError(f"run_id '{self.run_id}' must be a plain folder name")
        _not_negative(self, "seed")
        if self.checkpoint_seconds <= 0:
            raise ValueError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must be above 0")
        architecture, training = self.architecture, self.training
        if reason := why_not_trainable(architecture):
            raise ValueError(reason)
        if architecture.is_moe and training.balancing == "bias" and not architecture.router_selection_bias:
            raise ValueError(
                "balancing 'bias' needs router_selection_bias true in the architecture; "
                "set it, or choose 'auxiliary_loss'"
            )
        if training.parametrization == "mup" and architecture.tied_embeddings:
            raise ValueError(
                "parametrization 'mup' gives the embedding and the head different rates, so tied_embeddings "
                "must be false; untie them or choose 'standard'"
            )
        self._check_branching()
        return self

    def _check_branching(self) -> None:
        points = {f"saved_at {tokens}": tokens for tokens in self.saved_at}
        if self.trunk is not None:
            if self.trunk.run_id == self.run_id:
                raise ValueError(f"trunk.run_id is the run's own '{self.run_id}'; name another run")
            points[f"trunk.tokens {self.trunk.tokens}"] = self.trunk.tokens
        start = self.training.decay_start
        for name, tokens in points.items():
            if not 0 < self.training.step_at(tokens) <= start:
                raise ValueError(
                    f"{name} must lie above 0 and not inside the decay, which starts at "
                    f"{self.training.tokens_at(start)} tokens of run '{self.run_id}'; move it or lower decay_fraction"
                )


class RunConfig(RunSpec):
    """``config.yaml``: a run that can be trained, resumed and identified."""

    schema_version: Literal[1] = 1
    data: DataConfig

    def digest(self) -> str:
        """sha256 of everything that decides the run's numbers; places, notes and what is saved when do not, and the
        micro-batch only their rounding."""
        content = self.model_dump(mode="json", exclude=set(_NOT_THE_NUMBERS))
        del content["training"]["micro_batch_tokens"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _above_zero(config: Schema, key: str) -> None:
    if getattr(config, key) <= 0:
        raise ValueError(f"{key} is {getattr(config, key)}; it must be above 0")


def _not_negative(config: Schema, key: str) -> None:
    if getattr(config, key) < 0:
        raise ValueError(f"{key} is {getattr(config, key)}; it must not be negative")


def _within_one(config: Schema, key: str) -> None:
    if not 0 <= getattr(config, key) <= 1:
        raise ValueError(f"{key} is {getattr(config, key)}; it must lie between 0 and 1")
