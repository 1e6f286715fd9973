"""What is measured: six mixture-of-experts models from 11M to 1.2B active parameters, and tiny ones for sweeps."""

from dataclasses import dataclass
from typing import Any

from trainer_small.architecture import Architecture
from trainer_small.config import RunConfig


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_layers: int
    goal: float | None
    """Model FLOPs utilisation of one H200, against its data sheet."""
    num_experts: int = 64
    experts_per_token: int = 8
    vocab_size: int = 32768
    sequence_length: int = 2048
    batch_tokens: int = 524288

    @property
    def name(self) -> str:
        return f"{self.hidden_size}x{self.num_layers} E{self.num_experts}"

    @property
    def architecture(self) -> Architecture:
        """One shared expert, expert width 2/7 of the hidden size in steps of 64, first layer dense."""
        head_dim = 128 if self.hidden_size >= 1024 else min(64, self.hidden_size // 2)
        heads = self.hidden_size // head_dim
        step = min(64, self.hidden_size // 4)
        expert = max(1, round(self.hidden_size * 2 / 7 / step)) * step
        return Architecture.parse(
            {
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "num_layers": self.num_layers,
                "num_attention_heads": heads,
                "num_key_value_heads": max(1, heads // 4),
                "qk_norm": "per_head",
                "dense_ffn_size": expert * (self.experts_per_token + 1),
                "num_dense_layers": 1,
                "num_experts": self.num_experts,
                "experts_per_token": self.experts_per_token,
                "num_shared_experts": 1,
                "expert_ffn_size": expert,
                "router_score_function": "sigmoid",
                "router_selection_bias": True,
                "router_scaling_factor": 2.5,
            },
            self.name,
        )


def six_shapes() -> list[Shape]:
    goals = ((256, 4, 0.15), (512, 8, 0.22), (768, 12, 0.26), (1024, 16, 0.28), (1536, 24, 0.31), (2048, 24, 0.33))
    return [Shape(*each) for each in goals]


def small_shapes() -> list[Shape]:
    """Below 20M active parameters: for many at once; the most telling first."""
    common: dict[str, Any] = {"sequence_length": 512, "batch_tokens": 8192}
    return [
        Shape(128, 4, None, num_experts=32, experts_per_token=4, vocab_size=8192, **common),
        Shape(64, 4, None, num_experts=8, experts_per_token=2, vocab_size=2048, **common),
        Shape(256, 6, None, num_experts=64, experts_per_token=8, vocab_size=8192, **common),
        Shape(64, 4, None, num_experts=32, experts_per_token=4, vocab_size=2048, **common),
    ]


def tiny(shape: Shape) -> Shape:
    """The same in a size that a test can run on a CPU."""
    return Shape(
        hidden_size=32,
        num_layers=2,
        goal=shape.goal,
        num_experts=8,
        experts_per_token=2,
        vocab_size=256,
        sequence_length=32,
        batch_tokens=128,
    )


def run_config(
    shape: Shape,
    device: str,
    *,
    compiled: bool,
    micro_batch_tokens: int | None = None,
    seed: int = 0,
    dtype: str = "bfloat16",
) -> RunConfig:
    """A run long enough that its schedule stays at the peak; the whole batch at once unless a part is named."""
    data = {
        "run_id": "benchmark",
        "architecture": shape.architecture.model_dump(mode="json"),
        "training": {
            "tokens": 10**6 * shape.batch_tokens,
            "sequence_length": shape.sequence_length,
            "batch_tokens": shape.batch_tokens,
            "micro_batch_tokens": micro_batch_tokens,
            "learning_rate": 1e-3,
        },
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "compile": compiled,
        "data": {"tokens": "random"},
    }
    return RunConfig.parse(data, shape.name)
