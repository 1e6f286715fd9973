"""Initial scale, learning rate and weight decay of every parameter: muP over width, experts and depth, or standard.

Residual multipliers do not appear in the model: AdamW's step has no scale, so multiplying a matrix by c is the same
as starting it at c times the size with c times the rate (arXiv 2203.03466, appendix J). A trained model therefore
is a plain transformer that any stack can open.
"""

from dataclasses import dataclass

import torch

from trainer_small.architecture import Architecture
from trainer_small.model.model import Model
from trainer_small.training_config import TrainingConfig


@dataclass(frozen=True)
class Scale:
    """How one parameter starts and moves."""

    init: float
    """Standard deviation of its normal start; for gains the constant they start at."""
    learning_rate: float = 1.0
    """Factor on the run's rate."""
    weight_decay: float = 0.0
    """Factor on the run's weight decay; the product with ``learning_rate`` is 1 for all decayed groups under muP."""
    muon: float = 1.0
    """Factor on Muon's rate, which follows the width by itself: what the depth and the recipe's factors leave."""


def scale_of(name: str, shape: torch.Size, architecture: Architecture, training: TrainingConfig) -> Scale:
    """The rule for the parameter ``name`` of ``Model``."""
    if training.parametrization == "standard":
        rule = _standard(name, shape, architecture, training)
    else:
        rule = _mup(name, shape, architecture, training)
    if "router" in name:
        return _faster(rule, training.router_rate_factor)
    return _faster(rule, training.expert_rate_factor) if len(shape) == 3 else rule


def _standard(name: str, shape: torch.Size, architecture: Architecture, training: TrainingConfig) -> Scale:
    """One rate for all; fan-in start, outputs of residual branches smaller with depth (GPT-2)."""
    if len(shape) == 1:
        return Scale(0.0 if name.endswith("bias") else 1.0)
    if name.startswith("embedding"):
        return Scale(0.02)
    if name.startswith("lm_head"):
        return Scale(0.02, weight_decay=1.0)
    if "router" in name:
        return Scale(training.router_init_std, weight_decay=1.0)
    init = shape[-1] ** -0.5
    if _ends_branch(name):
        init *= (2 * architecture.num_layers) ** -0.5
    return Scale(init, weight_decay=1.0)


def _mup(name: str, shape: torch.Size, architecture: Architecture, training: TrainingConfig) -> Scale:
    """Rates fall as 1 / fan-in (arXiv 2203.03466, table 8), experts by their own fan-in (arXiv 2508.09752),
    residual branches as 1 / depth (CompleteP, arXiv 2505.01618). The router's rate follows the width only."""
    depth = training.base_num_layers / architecture.num_layers
    if len(shape) == 1:
        if name.endswith("bias"):
            return Scale(0.0)
        # With a norm on the block's output, its gain is what scales the branch.
        gain = depth if name.endswith("output_norm.weight") else 1.0
        return Scale(gain, learning_rate=gain)
    if name.startswith("embedding"):
        return Scale(1.0, learning_rate=training.embedding_rate_factor)
    fan_in = shape[-1]
    rate = training.base_hidden_size / fan_in
    if name.startswith("lm_head"):
        return _decayed(0.0, rate)
    if "router" in name:
        return _decayed(training.router_init_std, rate)
    if not _ends_branch(name):
        return _decayed(fan_in**-0.5, rate)
    if ".ffn." in name:
        rate = training.base_expert_ffn_size / fan_in
    normed = architecture.moe_output_norm and ".ffn." in name and architecture.is_moe_layer(int(name.split(".")[1]))
    branch = 1.0 if normed else depth
    return _decayed(training.branch_init_factor * fan_in**-0.5 * branch, rate * branch, branch)


def _decayed(init: float, rate: float, muon: float = 1.0) -> Scale:
    return Scale(init, rate, 1 / rate, muon)


def _faster(rule: Scale, factor: float) -> Scale:
    """A rate times ``factor``, at the same decay in a step."""
    return Scale(rule.init, rule.learning_rate * factor, rule.weight_decay / factor, rule.muon * factor)


def _ends_branch(name: str) -> bool:
    return "o_proj" in name or "down_proj" in name


def scales(model: Model, training: TrainingConfig) -> dict[str, Scale]:
    """The rule of every parameter by name."""
    return {
        name: scale_of(name, parameter.shape, model.architecture, training)
        for name, parameter in model.named_parameters()
    }


@torch.no_grad()
def initialize(model: Model, training: TrainingConfig, seed: int) -> None:
    """Fill the parameters from ``seed``, on the CPU so that every device starts from the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    rules = scales(model, training)
    for name, parameter in model.named_parameters():
        init = rules[name].init
        if parameter.dim() == 1:
            parameter.fill_(init)
        elif init == 0:
            parameter.zero_()
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * init)
