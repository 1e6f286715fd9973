"""Tests of what only a GPU can show. Where there is none, those that can run in the small on the CPU; the rest skip."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic, before it starts

import numpy as np
import pytest
import torch

from trainer_small.config import RunConfig
from trainer_small.steps.training import Training

ARCHITECTURE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "num_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dense_ffn_size": 128,
    "num_dense_layers": 1,
    "num_experts": 8,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_ffn_size": 64,
    "router_selection_bias": True,
    "router_score_function": "sigmoid",
}


class Tokens:
    """Stands for a reader of tokens: others at every position, with enough order in them to be learnt."""

    end_of_text = 7

    def __init__(self, length: int, vocab_size: int) -> None:
        self._length, self._vocab_size = length, vocab_size

    def batch(self, position: int, count: int) -> np.ndarray:
        random = np.random.default_rng(position)
        first = random.integers(0, self._vocab_size, (count, 1))
        steps = random.integers(1, 4, (count, self._length)).cumsum(1)
        return np.concatenate((first, first + steps), 1) % self._vocab_size


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The GPU where there is one, and nothing on it that a test before has left."""
    torch.set_num_threads(1)
    yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """For what a CPU cannot show."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture
def training(device: torch.device) -> Callable[..., Training]:
    """A training in bfloat16 on the device; ``architecture``, ``training`` and other keys change it."""

    def make(*, architecture: Any = None, training: Any = None, **keys: Any) -> Training:
        recipe = {"tokens": 10**7, "sequence_length": 256, "batch_tokens": 1024, "learning_rate": 0.01}
        data = {
            "run_id": "run",
            "architecture": ARCHITECTURE | (architecture or {}),
            "training": recipe | {"warmup_fraction": 0} | (training or {}),
            "device": device.type,
            "dtype": "bfloat16",
            "data": {"tokens": "made up"},
            **keys,
        }
        config = RunConfig.parse(data, "run")
        tokens: Any = Tokens(config.training.sequence_length, config.architecture.vocab_size)
        return Training(config, tokens, device)

    return make
