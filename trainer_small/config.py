"""What one run is: ``config.yaml`` in the run's folder. Nothing here imports torch."""

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, model_validator

from fits.schema import Count, Schema
from trainer_small.architecture import Architecture
from trainer_small.supported import why_not_trainable
from trainer_small.training_config import TrainingConfig, above_zero, not_negative

NOT_THE_NUMBERS = ("data", "purpose", "run_id", "checkpoint_seconds", "log_to", "peak_flops", "saved_at", "trunk")


class TokenSource(Schema):
    """One source of a mixture."""

    tokens: str
    """Folder made by ``prepare_tokens``: absolute, or relative to the run's folder."""
    weight: float = 1.0
    """Its share of the training tokens is this over the sum of all weights."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weight <= 0:
            raise ValueError(f"weight is {self.weight}; it must be above 0, or leave the source out")
        return self


class DataConfig(Schema):
    """What is trained on: one token folder, or a mixture of several."""

    tokens: str | None = None
    """Folder made by ``prepare_tokens``: absolute, or relative to the run's folder."""
    mixture: tuple[TokenSource, ...] = ()
    """Several folders made with one tokenizer; every prefix of the run has their shares, to less than a window."""

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """As a mixture, of one where it is one."""
        return self.mixture if self.tokens is None else (TokenSource(tokens=self.tokens),)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tokens is None) == (not self.mixture):
            raise ValueError("give either tokens, one folder, or mixture, a list of folders with weights")
        return self


class EvaluationConfig(Schema):
    """What a run is judged on, and when."""

    validation_bytes: Count | None = 262144
    """Bytes of validation text to score, in whole documents; ``None`` scores all of it."""
    earlier_points: Count = 0
    """Evaluations before the last one, at 1/2, 1/4, 1/8 ... of the steps."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation_bytes is not None:
            above_zero(self, "validation_bytes")
        not_negative(self, "earlier_points")
        return self


class Trunk(Schema):
    """Where a run leaves another: it takes that run's whole state there instead of training up to it."""

    run_id: str
    """The trunk's folder beside this run's."""
    tokens: Count
    """Tokens after which the branch leaves: one of the trunk's ``saved_at``, before either's decay."""


class ParallelConfig(Schema):
    """How the processes of one run (torchrun's) share the model; alone none of it matters."""

    expert_parallel: Count = 1
    """Ranks over which each layer's experts are spread; divides the processes and ``num_experts``."""
    shard_parameters: bool = False
    """Shard all other parameters, their gradients and moments over the processes (FSDP2)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.expert_parallel < 1:
            raise ValueError(f"expert_parallel is {self.expert_parallel}; it must be at least 1")
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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; parameters, router, norms' statistics and loss stay in float32. ``auto`` is
    bfloat16 on a GPU, whose float32 products are an order slower, and float32 on a CPU."""
    compile: bool = False
    """Compile the model before it trains (``torch.compile``): faster from some minutes on, other rounding."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    checkpoint_seconds: float = 60.0
    """Between checkpoints, at least: one that held the training up for s seconds is followed by the next after s / 5 %,
    so that a large state on a slow disk takes at most that share of the run's time."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the metrics also go, beside ``metrics.jsonl``; each needs the package of its name."""
    peak_flops: float | None = None
    """FLOP/s of one device by its data sheet, for that MFU in the result."""
    saved_at: tuple[Count, ...] = ()
    """Tokens after which the whole state is kept for good, so that branches can leave there; before the decay."""
    trunk: Trunk | None = None
    """The run that this one is a branch of; its end is that of an independent run, bit for bit on a CPU."""

    def dtype_on(self, device_type: str) -> Literal["float32", "bfloat16"]:
        """The type of the matrix products on such a device (``cuda``, ``cpu``)."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if device_type == "cuda" else "float32"

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
        not_negative(self, "seed")
        if self.checkpoint_seconds <= 0:
            raise ValueError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must be above 0")
        if self.peak_flops is not None and self.peak_flops <= 0:
            raise ValueError(f"peak_flops is {self.peak_flops}; it must be above 0")
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
        content = self.model_dump(mode="json", exclude=set(NOT_THE_NUMBERS))
        del content["training"]["micro_batch_tokens"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
