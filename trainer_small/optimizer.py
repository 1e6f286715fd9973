"""AdamW (arXiv 1711.05101) with one group for each rate and decay that the parametrization asks for."""

from collections import defaultdict

import torch
from torch import nn

from trainer_small.config import TrainingConfig
from trainer_small.model import Model
from trainer_small.parametrization import Scale, scales
from trainer_small.schedule import learning_rate_factor

# Small against any gradient, so that the step stays free of scale as muP assumes.
_EPS = 1e-12


def make_optimizer(model: Model, training: TrainingConfig) -> torch.optim.AdamW:
    """Groups carry ``scale``, the factor of their learning rate."""
    rules = scales(model, training)
    groups: dict[Scale, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        rule = rules[name]
        groups[Scale(0.0, rule.learning_rate, rule.weight_decay)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "scale": rule.learning_rate, "weight_decay": training.weight_decay * rule.weight_decay}
            for rule, members in groups.items()
        ],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=_EPS,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, training: TrainingConfig, step: int) -> float:
    """Set every group's rate for ``step``; returns the rate of a group with factor 1."""
    rate = training.learning_rate * learning_rate_factor(training, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate
