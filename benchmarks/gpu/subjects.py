"""Who is measured: this trainer's own training loop, a stack of them, and transformers' model of the same architecture.

A step of half a million tokens would take a large model 12 s. So a step is measured by its two pieces, forward and
backward of one part of the batch, and everything after the last part's; a step is as many parts as it has and one end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from benchmarks.gpu.shapes import Shape, run_config
from trainer_small.architecture import Architecture
from trainer_small.machine.numerics import set_matmul_precision
from trainer_small.model.model import Model
from trainer_small.runs.stacked import Stack
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.objective import training_loss
from trainer_small.steps.parametrization import scales
from trainer_small.steps.training import Training
from trainer_small.training_config import TrainingConfig

Step = Callable[[], None]


@dataclass(frozen=True)
class Pieces:
    """One training step in two."""

    part: Step
    """Forward and backward of one micro-batch; gradients add up."""
    end: Step
    """Clipping, optimizer, routers: what comes once a step."""

    def whole(self) -> None:
        """A step of one part."""
        self.part()
        self.end()


class RandomTokens:
    """Stands for ``TokenReader``: windows of random tokens, cheap to make, another for every position."""

    end_of_text = 0

    def __init__(self, vocab_size: int, sequence_length: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._tokens = random.integers(0, vocab_size, size=2**22)
        self._length = sequence_length + 1

    def batch(self, position: int, count: int) -> np.ndarray:
        starts = (position + np.arange(count)) * 7919 % (len(self._tokens) - self._length)
        return self._tokens[starts[:, None] + np.arange(self._length)]


@torch.no_grad()
def _initialize_on_device(model: Model, training: TrainingConfig, seed: int) -> None:
    """As ``initialize``, drawn where the parameters are: a CPU takes a minute for 6 billion."""
    torch.manual_seed(seed)
    for name, scale in scales(model, training).items():
        parameter = model.get_parameter(name)
        if parameter.dim() == 1:
            parameter.fill_(scale.init)
        else:
            parameter.normal_(std=scale.init)


def _training(shape: Shape, device: torch.device, *, micro: int | None, **settings: Any) -> Training:
    """``settings``: as for ``run_config``."""
    set_matmul_precision(device, shape.hidden_size)
    config = run_config(shape, device.type, micro_batch_tokens=micro, **settings)
    reader: Any = RandomTokens(shape.vocab_size, shape.sequence_length, config.seed)
    with patch("trainer_small.steps.training.initialize", _initialize_on_device), device:
        return Training(config, reader, device)


def ours(shape: Shape, device: torch.device, *, compiled: bool, graphs: bool = False, dtype: str = "bfloat16") -> Step:
    """Whole steps of one run, as ``scaling sweep run-one`` trains it; ``graphs``: replayed as CUDA graphs."""
    training = _training(shape, device, compiled=compiled and not graphs, micro=None, dtype=dtype)
    if graphs:
        compile_model(training.model, graphs=True)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        training.advance()

    return step


def our_pieces(shape: Shape, device: torch.device, *, compiled: bool, micro: int) -> Pieces:
    """The same, in pieces."""
    training = _training(shape, device, compiled=compiled, micro=micro)
    windows = training.batches.of(0)[: max(1, micro // shape.sequence_length)]
    training.batches.close()
    losses: list[torch.Tensor] = []

    def part() -> None:
        loss, objective = training_loss(training.model, windows)
        (objective * micro / shape.batch_tokens).backward()
        losses[:] = [loss.detach()]

    return Pieces(part, lambda: training.advance(losses[0]))


def stack_of(
    shape: Shape,
    device: torch.device,
    models: int,
    *,
    compiled: bool,
    graphs: bool = False,
    dtype: str = "bfloat16",
) -> Step:
    """Whole steps of so many runs as one stack."""
    trainings = [
        _training(shape, device, compiled=compiled and not graphs, micro=None, seed=seed, dtype=dtype)
        for seed in range(models)
    ]
    stack = Stack(trainings)
    if graphs:
        compile_model(stack.model, graphs=True)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        for training, loss in zip(trainings, stack.gradients(), strict=True):
            training.advance(loss)

    return step


def transformers_model(architecture: Architecture, sequence_length: int, device: torch.device) -> nn.Module:
    """transformers' class for this architecture, random weights in float32, experts by ``grouped_mm``."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from scaling.hf.write import hf_config

    content = hf_config(architecture, max_position_embeddings=sequence_length, dtype="float32")
    config = AutoConfig.for_model(**content)
    with device:
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, experts_implementation="grouped_mm"
        ).train()


def their_pieces(shape: Shape, device: torch.device, *, compiled: bool, micro: int) -> Pieces:
    """transformers' model of the same architecture with fused AdamW, bf16 by autocast, the plain loss; compiled layer
    by layer, as ours is."""
    model = transformers_model(shape.architecture, shape.sequence_length, device)
    if compiled:
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    reader = RandomTokens(shape.vocab_size, shape.sequence_length, 0)
    windows = torch.from_numpy(reader.batch(0, max(1, micro // shape.sequence_length))).to(device)

    def part() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].reshape(-1))
        (loss * micro / shape.batch_tokens).backward()

    def end() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return Pieces(part, end)
