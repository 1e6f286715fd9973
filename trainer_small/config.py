"""What one run is: ``config.yaml`` in the run's folder. Nothing here imports torch."""

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, model_validator

from fits.schema import Count, Schema
from trainer_small.architecture import Architecture
from trainer_small.supported import why_not_trainable


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
            if getattr(self, key) < 0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must not be negative")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
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
        if self.earlier_points < 0:
            raise ValueError(f"earlier_points is {self.earlier_points}; it must not be negative")
        return self


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

    @property
    def train_flops(self) -> int:
        """Training FLOPs of the run: causal attention, head in."""
        per_token = self.architecture.flops_per_token(self.training.sequence_length)
        return per_token * self.training.tokens_trained

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if not self.run_id or self.run_id != self.run_id.strip("./ ") or "/" in self.run_id:
            raise ValueError(f"run_id '{self.run_id}' must be a plain folder name")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
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
        return self


class RunConfig(RunSpec):
    """``config.yaml``: a run that can be trained, resumed and identified."""

    schema_version: Literal[1] = 1
    data: DataConfig

    def digest(self) -> str:
        """sha256 of everything that decides the run's numbers; places, notes and checkpoint times do not, and the
        micro-batch only their rounding."""
        content = self.model_dump(mode="json", exclude={"data", "purpose", "run_id", "checkpoint_seconds"})
        del content["training"]["micro_batch_tokens"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _above_zero(config: Schema, key: str) -> None:
    if getattr(config, key) <= 0:
        raise ValueError(f"{key} is {getattr(config, key)}; it must be above 0")


def _within_one(config: Schema, key: str) -> None:
    if not 0 <= getattr(config, key) <= 1:
        raise ValueError(f"{key} is {getattr(config, key)}; it must lie between 0 and 1")
