"""AdamW (arXiv 1711.05101), or Muon with AdamW beside it: one group for each rate that the parametrization asks for."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from trainer_small.architecture import Architecture
from trainer_small.model.model import Model
from trainer_small.steps.muon import Muon
from trainer_small.steps.parametrization import Scale, scales
from trainer_small.steps.schedule import learning_rate_factor
from trainer_small.training_config import TrainingConfig

# Small against any gradient, so that the step stays free of scale as muP assumes.
_EPS = 1e-12


@dataclass(frozen=True)
class _Group:
    peak: float
    """Rate before warm-up and decay."""
    decayed: float
    """Share of ``decay_per_step`` that a parameter of the group loses in a step."""
    rows: tuple[int, ...] | None
    """For Muon: the heights of the matrices that the parameter holds."""


def make_optimizer(model: Model, training: TrainingConfig) -> torch.optim.Optimizer:
    """Groups carry ``peak``, their rate before the schedule."""
    rules = scales(model, training)
    groups: dict[_Group, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        rule, rows = rules[name], None
        if training.optimizer == "muon":
            rows = muon_rows(name, parameter.shape, model.architecture)
        groups[_group(rule, rows, training)].append(parameter)
    listed = [
        {
            "params": members,
            "peak": group.peak,
            "weight_decay": training.decay_per_step * group.decayed / group.peak,
            "rows": group.rows,
        }
        for group, members in groups.items()
    ]
    betas = (training.beta1, training.beta2_at(0))
    if training.optimizer == "muon":
        return Muon(
            listed,
            momentum=training.muon_momentum,
            betas=betas,
            eps=_EPS,
            dtype=model.compute_dtype,
            device_type=model.device_type,
        )
    return torch.optim.AdamW(listed, lr=training.learning_rate, betas=betas, eps=_EPS, fused=True)


def _group(rule: Scale, rows: tuple[int, ...] | None, training: TrainingConfig) -> _Group:
    decayed = rule.learning_rate * rule.weight_decay
    if rows is None:
        return _Group(training.learning_rate * rule.learning_rate, decayed, None)
    return _Group(training.muon_learning_rate * rule.muon, decayed, rows)


def muon_rows(name: str, shape: torch.Size, architecture: Architecture) -> tuple[int, ...] | None:
    """Heights of the matrices in a parameter that Muon moves; None for what is left to AdamW: embedding, head, router,
    gates, gains and biases."""
    if len(shape) == 1 or "_proj" not in name:
        return None
    if "qkv_proj" in name:
        queries, values = (
            count * architecture.head_dim
            for count in (architecture.num_attention_heads, architecture.num_key_value_heads)
        )
        return queries, values, values
    if "gate_up_proj" in name:
        return shape[-2] // 2, shape[-2] // 2
    return (shape[-2],)


def set_learning_rate(optimizer: torch.optim.Optimizer, training: TrainingConfig, step: int) -> None:
    """Set every group's rate, and AdamW's beta2, for ``step`` (from 0)."""
    factor, beta2 = learning_rate_factor(training, step), training.beta2_at(step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        group["betas"] = (training.beta1, beta2)
