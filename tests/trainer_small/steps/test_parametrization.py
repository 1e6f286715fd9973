"""muP: what a model starts as and how far a step moves it do not depend on its size."""

from collections.abc import Callable

import pytest
import torch

from trainer_small.architecture import Architecture
from trainer_small.config import TrainingConfig
from trainer_small.model.model import Model
from trainer_small.steps.loss import linear_cross_entropy
from trainer_small.steps.optimizer import make_optimizer, set_learning_rate
from trainer_small.steps.parametrization import initialize, scales

MakeArchitecture = Callable[..., Architecture]


def _training(**changes: object) -> TrainingConfig:
    recipe = {"tokens": 1e6, "learning_rate": 2**-8, "warmup_fraction": 0, "base_hidden_size": 32}
    return TrainingConfig.parse(recipe | {"base_expert_ffn_size": 16, "base_num_layers": 2} | changes, "training")


def _movement(architecture: Architecture, training: TrainingConfig, steps: int = 4) -> float:
    """Root mean square of the change of the logits over a few steps."""
    torch.manual_seed(0)
    model = Model(architecture)
    initialize(model, training, 0)
    optimizer = make_optimizer(model, training)
    tokens = torch.randint(0, 512, (8, 33))
    with torch.no_grad():
        before = model.logits(tokens[:, :-1])
    for step in range(steps):
        set_learning_rate(optimizer, training, step)
        hidden, _ = model(tokens[:, :-1])
        linear_cross_entropy(hidden, model.head, tokens[:, 1:].reshape(-1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return (model.logits(tokens[:, :-1]) - before).square().mean().sqrt().item()


def _wider(make: MakeArchitecture, factor: int) -> Architecture:
    return make(hidden_size=32 * factor, head_dim=8 * factor, dense_ffn_size=48 * factor, expert_ffn_size=16 * factor)


def test_a_step_moves_every_width_as_far_under_mup_and_not_under_standard(tiny_architecture: MakeArchitecture) -> None:
    small, large = _wider(tiny_architecture, 1), _wider(tiny_architecture, 8)
    mup = _training()
    assert _movement(large, mup) == pytest.approx(_movement(small, mup), rel=0.4)
    standard = _training(parametrization="standard")
    assert _movement(large, standard) > 2 * _movement(small, standard)


def test_rates_follow_each_matrix_s_own_fan_in(tiny_architecture: MakeArchitecture) -> None:
    model = Model(tiny_architecture(hidden_size=64, head_dim=16, expert_ffn_size=64, num_layers=4))
    rules = scales(model, _training())
    rate = {name: rule.learning_rate for name, rule in rules.items()}
    assert rate["norm.weight"] == 1
    assert rate["embedding.weight"] == TrainingConfig(tokens=1, learning_rate=1).embedding_rate_factor
    assert rate["lm_head.weight"] == rate["blocks.1.ffn.router.weight"] == 32 / 64
    assert rate["blocks.1.ffn.gate_up_proj"] == rate["blocks.0.attention.qkv_proj.weight"] == 32 / 64
    assert rate["blocks.1.ffn.down_proj"] == 16 / 64 * (2 / 4)  # own fan-in, and half of it for twice the depth
    assert rate["blocks.0.attention.o_proj.weight"] == 32 / 64 * (2 / 4)
    decayed = [rule for rule in rules.values() if rule.weight_decay]
    assert all(rule.learning_rate * rule.weight_decay == pytest.approx(1) for rule in decayed)
    assert rules["embedding.weight"].weight_decay == rules["norm.weight"].weight_decay == 0


def test_with_an_output_norm_its_gain_carries_the_depth(tiny_architecture: MakeArchitecture) -> None:
    rules = scales(Model(tiny_architecture(moe_output_norm=True, num_layers=4)), _training())
    assert rules["blocks.1.ffn.output_norm.weight"].init == 2 / 4
    assert rules["blocks.1.ffn.down_proj"].learning_rate == 1
    assert rules["blocks.0.ffn.down_proj.weight"].learning_rate == pytest.approx(16 / 48 * 2 / 4)


def test_the_start_depends_on_the_seed_alone(tiny_architecture: MakeArchitecture) -> None:
    models = [Model(tiny_architecture()) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialize(model, _training(), seed)
    first, second, third = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], third["embedding.weight"])
    assert first["lm_head.weight"].abs().max() == 0
