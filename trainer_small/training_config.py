"""The recipe of a run: batch, schedule, optimizer, parametrization, balancing. Nothing here imports torch."""

import warnings
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import model_validator

from fits.schema import Count, Schema


class BatchStage(Schema):
    """A smaller batch at the start of a run."""

    until_tokens: Count
    """Tokens after which the next stage begins, to a whole step."""
    batch_tokens: Count


class TrainingConfig(Schema):
    """The recipe. Learning rates are AdamW's; ``batch_tokens`` is tokens in one optimizer step."""

    tokens: Count
    """Tokens to train on; rounded to a whole number of steps."""
    sequence_length: Count = 128
    batch_tokens: Count = 2048
    batch_law: str | None = None
    """Published law of the batch in tokens (``scaling laws``) that gives ``batch_tokens`` when it is left out."""
    batch_ramp: tuple[BatchStage, ...] = ()
    """Batches before the full one, in order."""
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

    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` moves the matrices of attention and of FFNs and experts; the rest stays with AdamW."""
    beta1: float = 0.9
    beta2: float = 0.95
    beta2_half_life_tokens: Count | None = None
    """Gives beta2 by the tokens after which AdamW's second moment has forgotten half: the same memory at any batch."""
    muon_learning_rate: float = 0.03
    """Peak rate of Muon's matrices: the spectral norm of a step, over sqrt(rows / columns) (arXiv 2310.17813).
    It needs no base width; best at 0.03 for every width and number of experts tried
    (``benchmarks/transfer/study.py``)."""
    muon_momentum: float = 0.95
    weight_decay: float = 0.1
    weight_decay_timescale: float | None = None
    """Replaces ``weight_decay``: the share of the run over which the weights forget, 1 / (rate x decay x steps)
    (arXiv 2405.13698, 2505.13738)."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off (the norm is still recorded)."""

    parametrization: Literal["mup", "standard"] = "mup"
    base_hidden_size: Count = 64
    base_expert_ffn_size: Count = 64
    base_num_layers: Count = 4
    embedding_rate_factor: float = 64.0
    """muP only: the input table's rate over ``learning_rate``. A table starts at 1 and each row is met seldom, so at
    factor 1 short runs end before it has moved; flat from 32 to 128 (``benchmarks/trainer/embedding_rate.py``)."""
    router_rate_factor: float = 1.0
    """The router's rate over what the parametrization gives it."""
    router_init_std: float = 0.02
    expert_rate_factor: float = 1.0
    """The routed experts' rate over what the parametrization gives them."""
    branch_init_factor: float = 0.5
    """muP only: start of the matrices that end a residual branch, over 1 / sqrt(fan-in); 0 starts at no branch."""

    balancing: Literal["bias", "auxiliary_loss", "none"] = "bias"
    """How the router's load is balanced: selection bias (arXiv 2408.15664), auxiliary loss (arXiv 2101.03961)."""
    balancing_rate: float = 1e-3
    """Step of the selection bias, or weight of the auxiliary loss."""
    sequence_balance_loss: float = 0.0
    """Weight of the balance loss within each sequence (arXiv 2412.19437, eq. 17), which may stand beside the bias."""
    router_z_loss: float = 0.0
    """Weight of the router's z-loss (arXiv 2202.08906)."""

    cross_document_attention: bool = True
    """Whether tokens see the documents before their own in a window; if not, each starts at position 0."""
    multi_token_weight: float = 0.3
    """Weight of the mean loss of the multi-token-prediction modules, where the architecture has any
    (arXiv 2412.19437, eq. 25)."""

    # Steps and tokens

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, self.step_at(self.tokens))

    @property
    def tokens_trained(self) -> int:
        """Tokens the run sees: whole steps only."""
        return self.tokens_at(self.steps)

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
        step = seen = 0
        for count, batch in self._ramp():
            if tokens < seen + count * batch:
                return step + round((tokens - seen) / batch)
            step, seen = step + count, seen + count * batch
        return step + round((tokens - seen) / self.batch_tokens)

    def tokens_at(self, step: int) -> int:
        """Tokens seen after ``step`` optimizer steps."""
        seen = 0
        for count, batch in self._ramp():
            if step < count:
                return seen + step * batch
            step, seen = step - count, seen + count * batch
        return seen + step * self.batch_tokens

    def batch_at(self, step: int) -> int:
        """Tokens of the batch of ``step`` (from 0)."""
        return self.tokens_at(step + 1) - self.tokens_at(step)

    def _ramp(self) -> list[tuple[int, int]]:
        """Steps and batch of each stage before the full batch."""
        seen, stages = 0, []
        for stage in self.batch_ramp:
            count = round((stage.until_tokens - seen) / stage.batch_tokens)
            stages.append((count, stage.batch_tokens))
            seen += count * stage.batch_tokens
        return stages

    # What follows from the batch and the horizon

    def beta2_at(self, step: int) -> float:
        if self.beta2_half_life_tokens is None:
            return self.beta2
        return 0.5 ** (self.batch_at(step) / self.beta2_half_life_tokens)

    @property
    def decay_per_step(self) -> float:
        """Share of itself that a decayed parameter loses in a step at the peak rate."""
        if self.weight_decay_timescale is None:
            return self.learning_rate * self.weight_decay
        return 1 / (self.weight_decay_timescale * self.steps)

    @model_validator(mode="before")
    @classmethod
    def _batch_by_law(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("batch_law") or "batch_tokens" in data:
            return data
        from fits.laws.coefficients import published  # SciPy loads only when a law is asked

        law = published(str(data["batch_law"]))
        tokens = float(data.get("tokens") or 0)
        if set(law.law.variable_names) != {"D"} or law.record.quantity != "batch_tokens":
            raise ValueError(f"batch_law '{law.name}' is not a law of the batch in tokens; choose steplaw-batch")
        answer = law.evaluate(D=tokens)
        for warning in answer.warnings:
            warnings.warn(f"batch_law: {warning}", stacklevel=2)
        length = int(float(data.get("sequence_length") or cls.model_fields["sequence_length"].default))
        return data | {"batch_tokens": max(1, round(answer.value / length)) * length}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in (
            "tokens",
            "sequence_length",
            "batch_tokens",
            "learning_rate",
            "muon_learning_rate",
            "base_hidden_size",
            "base_expert_ffn_size",
            "base_num_layers",
            "embedding_rate_factor",
            "router_rate_factor",
            "expert_rate_factor",
            "weight_decay_timescale",
            "beta2_half_life_tokens",
        ):
            above_zero(self, key)
        for key in ("warmup_fraction", "decay_fraction", "final_learning_rate_fraction"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must lie between 0 and 1")
        for key in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least 0 and below 1")
        for key in (
            "weight_decay",
            "grad_clip",
            "balancing_rate",
            "router_z_loss",
            "sequence_balance_loss",
            "multi_token_weight",
            "router_init_std",
        ):
            not_negative(self, key)
        not_negative(self, "branch_init_factor")
        self._check_batches()
        self._check_schedule()
        return self

    def _check_batches(self) -> None:
        sizes = {f"batch_tokens {self.batch_tokens}": self.batch_tokens}
        sizes |= {f"batch_ramp's batch_tokens {stage.batch_tokens}": stage.batch_tokens for stage in self.batch_ramp}
        if self.micro_batch_tokens is not None:
            sizes[f"micro_batch_tokens {self.micro_batch_tokens}"] = self.micro_batch_tokens
        for name, size in sizes.items():
            if size <= 0 or size % self.sequence_length:
                raise ValueError(f"{name} is not a multiple of sequence_length {self.sequence_length}; choose one")
        if self.micro_batch_tokens and self.batch_tokens % self.micro_batch_tokens:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} does not divide batch_tokens {self.batch_tokens}; "
                "choose a divisor"
            )
        ends = [0, *(stage.until_tokens for stage in self.batch_ramp)]
        if any(later <= earlier for earlier, later in pairwise(ends)) or ends[-1] >= self.tokens:
            raise ValueError(
                f"batch_ramp's until_tokens {ends[1:]} must rise and end below tokens {self.tokens}; change them"
            )

    def _check_schedule(self) -> None:
        if self.warmup_tokens is not None:
            not_negative(self, "warmup_tokens")
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


def above_zero(config: Schema, key: str) -> None:
    """
    Raises:
        ValueError: the key's number is not above zero (``None`` passes).
    """
    value = getattr(config, key)
    if value is not None and value <= 0:
        raise ValueError(f"{key} is {value}; it must be above 0")


def not_negative(config: Schema, key: str) -> None:
    """
    Raises:
        ValueError: the key's number is below zero.
    """
    if getattr(config, key) < 0:
        raise ValueError(f"{key} is {getattr(config, key)}; it must not be negative")
