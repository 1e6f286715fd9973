"""The training loop of one run: state, one step, and what is watched on the way."""

import time
from typing import Any

import numpy as np
import torch

from trainer_small.config import RunConfig
from trainer_small.data.batches import Batches
from trainer_small.data.token_reader import TokenReader
from trainer_small.machine.memory import peak_memory_bytes
from trainer_small.machine.ranks import Ranks
from trainer_small.model.model import Model
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.objective import set_router_losses, training_loss
from trainer_small.steps.optimizer import make_optimizer, set_learning_rate
from trainer_small.steps.parallel import Parallel
from trainer_small.steps.parametrization import initialize

_SPIKE_WINDOW, _SPIKE_SIGMAS = 128, 6.0


class Diverged(Exception):
    """The run cannot be saved: the step and the cause."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(cause)
        self.step, self.cause = step, cause


class Training:
    """Model, optimizer and history; everything that a checkpoint must bring back."""

    def __init__(
        self, config: RunConfig, reader: TokenReader, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.config, self.reader, self.device = config, reader, device
        self.dtype = getattr(torch, config.dtype_on(device.type))
        training = config.training
        self.model = Model(
            config.architecture,
            dispatch="grouped" if device.type == "cuda" else "sorted",
            compute_dtype=self.dtype,
        )
        initialize(self.model, training, config.seed)
        self.parallel = Parallel(ranks or Ranks(), config.parallel, self.model, device)
        set_router_losses(self.model, training)
        if not training.cross_document_attention:
            self.model.document_separator = reader.end_of_text
        self.model.activation_checkpointing = config.activation_checkpointing
        if config.compile:
            compile_model(self.model)
        self.optimizer = make_optimizer(self.model, training)
        self.parallel.split_groups(self.optimizer)
        self.batches = Batches(self.windows, device)
        self.step = 0
        self.seconds = 0.0
        """Spent on steps by this run itself: a branch's trunk counts its own."""
        self.device_seconds = 0.0
        self._earlier_peak = 0
        self.losses: list[float] = []
        """Training loss of every step, nats per token."""
        self.gradient_norms: list[float] = []
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.check_every = 1 if device.type == "cpu" else 16
        """Steps after which the host waits for the device, to read and check the losses."""

    def windows(self, step: int) -> np.ndarray:
        """This rank's windows of the step after ``step`` others, ``[windows, sequence_length + 1]``."""
        training = self.config.training
        first, own = self.parallel.rows(training.batch_at(step) // training.sequence_length)
        return self.reader.batch(training.tokens_at(step) // training.sequence_length + first, own)

    def advance(self, loss: torch.Tensor | None = None) -> None:
        """One optimizer step.

        Args:
            loss: of the coming step's batch, when its gradients are there already: a stack makes those of its models
                together.

        Raises:
            Diverged: the loss or the gradient is not a number, or the loss stays above its start.
        """
        started, processor = time.perf_counter(), time.process_time()
        training = self.config.training
        set_learning_rate(self.optimizer, training, self.step)
        if loss is None:
            loss = self._gradients(self.batches.of(self.step))
        loss = self.parallel.ranks.mean(loss)
        self.parallel.average_gradients()
        norm = self.parallel.clip_gradients(training.grad_clip or torch.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.parallel.sum_router_loads()
        for router in self.model.routers():
            router.end_batch(training.balancing_rate if training.balancing == "bias" else 0.0)
        self._pending.append((loss, norm))
        self.step += 1
        if len(self._pending) >= self.check_every:
            self.settle()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        # Ranks do alike: this one speaks for all.
        own = seconds if self.device.type == "cuda" else time.process_time() - processor
        self.device_seconds += self.parallel.ranks.size * own

    def _gradients(self, batch: torch.Tensor) -> torch.Tensor:
        """Add the gradients of ``batch``, micro-batch by micro-batch; returns its loss."""
        training = self.config.training
        loss = torch.zeros((), device=self.device)
        size = (training.micro_batch_tokens or training.batch_tokens) // training.sequence_length
        parts = batch.split(size)
        for at, part in enumerate(parts, 1):
            share = len(part) / len(batch)
            part_loss, objective = training_loss(self.model, part, training.multi_token_weight)
            if at == len(parts):
                self.parallel.last_part()
            (objective * share).backward()
            loss += part_loss.detach() * share
        return loss

    def settle(self) -> None:
        """Bring the pending losses to the host and check them."""
        pending = torch.stack([torch.stack(pair) for pair in self._pending]).tolist() if self._pending else []
        self._pending.clear()
        for loss, norm in pending:
            self.losses.append(loss)
            self.gradient_norms.append(norm)
            step = len(self.losses)
            if not np.isfinite(self.losses[-1]):
                raise Diverged(step, f"the training loss is {self.losses[-1]} at step {step}")
            if not np.isfinite(self.gradient_norms[-1]):
                raise Diverged(step, f"the gradient norm is {self.gradient_norms[-1]} at step {step}")
        stretch = max(16, self.config.training.steps // 10)
        if len(self.losses) > stretch:
            recent = float(np.mean(self.losses[-stretch:]))
            if recent > self.losses[0]:
                raise Diverged(
                    self.step,
                    f"the training loss stayed above its start ({recent:.3f} against {self.losses[0]:.3f} nats) "
                    f"for {stretch} steps up to step {self.step}",
                )

    def peak_memory_bytes(self) -> int:
        """Of this process and of those that trained the run before it was resumed."""
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_memory_bytes()
        return max(now, self._earlier_peak)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only. Nothing in a step is random, so no generator is part of it."""
        self.settle()
        model, optimizer = self.parallel.state(self.optimizer)
        # A model of a stack is a view of it, and a file would take the whole stack with each.
        model = {
            name: part if part.nbytes == part.untyped_storage().nbytes() else part.clone()
            for name, part in model.items()
        }
        return {
            "step": self.step,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "peak_memory_bytes": self.peak_memory_bytes(),
            "model": model,
            "optimizer": optimizer,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "gradient_norms": torch.tensor(self.gradient_norms, dtype=torch.float64),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds, self.device_seconds = state["step"], state["seconds"], state["device_seconds"]
        self._earlier_peak = state["peak_memory_bytes"]
        self.parallel.restore(state["model"], state["optimizer"], self.optimizer)
        self.losses = state["losses"].tolist()
        self.gradient_norms = state["gradient_norms"].tolist()


def find_spikes(losses: list[float]) -> list[int]:
    """Steps (from 1) whose loss stands more than 6 standard deviations above the mean of the 128 before."""
    if len(losses) <= _SPIKE_WINDOW:
        return []
    before = np.lib.stride_tricks.sliding_window_view(np.array(losses), _SPIKE_WINDOW)[:-1]
    bound = before.mean(-1) + _SPIKE_SIGMAS * before.std(-1)
    return [int(step) + _SPIKE_WINDOW + 1 for step in np.flatnonzero(np.array(losses[_SPIKE_WINDOW:]) > bound)]
