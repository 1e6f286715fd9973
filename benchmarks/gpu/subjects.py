"""Who is measured: this trainer's own training loop, a stack of them, and transformers' model of the same architecture.

Each subject makes one optimizer step when called.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from shapes import Shape, run_config
from torch import nn

from trainer_small.architecture import Architecture
from trainer_small.machine.numerics import set_matmul_precision
from trainer_small.runs.stacked import Stack
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.training import Training

Step = Callable[[], None]


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


def _training(
    shape: Shape, device: torch.device, *, compiled: bool, micro: int | None, dtype: str, seed: int = 0
) -> Training:
    set_matmul_precision(device, shape.hidden_size)
    config = run_config(shape, device.type, compiled=compiled, micro_batch_tokens=micro, seed=seed, dtype=dtype)
    reader: Any = RandomTokens(shape.vocab_size, shape.sequence_length, seed)
    return Training(config, reader, device)


def ours(
    shape: Shape,
    device: torch.device,
    *,
    compiled: bool,
    micro: int | None = None,
    graphs: bool = False,
    dtype: str = "bfloat16",
) -> Step:
    """One run, as ``scaling sweep run-one`` trains it; ``graphs``: replayed as CUDA graphs."""
    training = _training(shape, device, compiled=compiled, micro=micro, dtype=dtype)
    if graphs:
        compile_model(training.model, graphs=True)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        training.advance()

    return step


def stack_of(
    shape: Shape,
    device: torch.device,
    models: int,
    *,
    compiled: bool,
    graphs: bool = False,
    dtype: str = "bfloat16",
) -> Step:
    """So many runs as one stack."""
    trainings = [
        _training(shape, device, compiled=compiled, micro=None, dtype=dtype, seed=seed) for seed in range(models)
    ]
    stack = Stack(trainings)
    if graphs:
        compile_model(stack.model, graphs=True)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        for training, loss in zip(trainings, stack.gradients(), strict=True):
            training.advance(loss)

    return step


def transformers_model(architecture: Architecture, sequence_length: int) -> nn.Module:
    """transformers' class for this architecture, random weights in float32, experts by ``grouped_mm``."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from scaling.hf.write import hf_config

    content = hf_config(architecture, max_position_embeddings=sequence_length, dtype="float32")
    config = AutoConfig.for_model(**content)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, experts_implementation="grouped_mm").train()


def theirs(shape: Shape, device: torch.device, *, compiled: bool, micro: int) -> Step:
    """transformers' model of the same architecture with fused AdamW, bf16 by autocast, the plain loss."""
    model = transformers_model(shape.architecture, shape.sequence_length).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    call = torch.compile(model, dynamic=False) if compiled else model
    reader = RandomTokens(shape.vocab_size, shape.sequence_length, 0)
    windows, position = shape.batch_tokens // shape.sequence_length, 0

    def step() -> None:
        nonlocal position
        batch = torch.from_numpy(reader.batch(position, windows)).to(device)
        position += windows
        for part in batch.split(micro // shape.sequence_length):
            with torch.autocast(device.type, torch.bfloat16):
                logits = call(input_ids=part[:, :-1], use_cache=False).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].reshape(-1))
            (loss * len(part) / windows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return step
