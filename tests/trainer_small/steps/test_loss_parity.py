"""Trained by the same recipe from the same weights, transformers' model and ours have the same loss curve."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainer_small.architecture import Architecture
from trainer_small.config import DataConfig, RunConfig, TrainingConfig
from trainer_small.data.token_reader import TokenReader
from trainer_small.model.hf_weights import to_hugging_face
from trainer_small.model.model import Model
from trainer_small.steps.loss import linear_cross_entropy
from trainer_small.steps.training import Training

transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")


def _architecture(vocab_size: int) -> Architecture:
    return Architecture(
        vocab_size=vocab_size,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        experts_per_token=2,
        expert_ffn_size=24,
    )


def _mixtral(ours: Model) -> Any:
    """transformers' model with the same weights."""
    architecture = ours.architecture
    config = transformers.MixtralConfig(
        vocab_size=architecture.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        intermediate_size=24,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=None,
        attn_implementation="eager",
    )
    theirs = transformers.MixtralForCausalLM(config)
    weights = to_hugging_face(ours.state_dict(), architecture, "mixtral")
    stacked = theirs.state_dict()
    for layer in range(2):
        one = f"model.layers.{layer}.block_sparse_moe.experts"
        stacked[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat((weights[f"{one}.{e}.w1.weight"], weights[f"{one}.{e}.w3.weight"])) for e in range(4)]
        )
        stacked[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack(
            [weights[f"{one}.{e}.w2.weight"] for e in range(4)]
        )
        stacked[f"model.layers.{layer}.mlp.gate.weight"] = weights[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
    theirs.load_state_dict(stacked | {name: value for name, value in weights.items() if "block_sparse" not in name})
    return theirs


def test_the_loss_curve_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    ours = Model(_architecture(64))
    for parameter in ours.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs = _mixtral(ours)
    ours_optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, fused=True)
    theirs_optimizer = torch.optim.AdamW(theirs.parameters(), lr=3e-3, fused=True)
    tokens = torch.randint(0, 64, (4, 25))
    curves: list[tuple[float, float]] = []
    for _ in range(25):
        hidden, _ = ours(tokens[:, :-1])
        our_loss = linear_cross_entropy(hidden, ours.head, tokens[:, 1:].reshape(-1))
        their_loss = F.cross_entropy(theirs(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].reshape(-1))
        for loss, optimizer in ((our_loss, ours_optimizer), (their_loss, theirs_optimizer)):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        curves.append((our_loss.item(), their_loss.item()))
    assert curves[-1][0] < curves[0][0] - 1
    for our_loss, their_loss in curves:
        assert our_loss == pytest.approx(their_loss, rel=1e-4)


def test_a_run_s_recipe_gives_transformers_model_the_same_curve(tokens: Path) -> None:
    """The recipe written again in plain PyTorch: batches, warm-up and decay, clipping, decay of weights."""
    steps, batch, length, peak = 60, 256, 32, 5e-3
    recipe = TrainingConfig(
        tokens=steps * batch,
        batch_tokens=batch,
        sequence_length=length,
        learning_rate=peak,
        warmup_fraction=0.1,
        decay_fraction=0.2,
        grad_clip=0.7,
        parametrization="standard",
        balancing="none",
    )
    config = RunConfig(
        run_id="run", architecture=_architecture(400), training=recipe, data=DataConfig(tokens=str(tokens))
    )
    reader = TokenReader(tokens, length, config.seed)
    training = Training(config, reader, torch.device("cpu"))
    theirs = _mixtral(training.model)
    matrices = [value for name, value in theirs.named_parameters() if value.dim() > 1 and "embed" not in name]
    others = [value for name, value in theirs.named_parameters() if value.dim() == 1 or "embed" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-12,
    )
    curve = []
    for step in range(steps):
        training.advance()
        rate = (step + 1) / 6 if step < 6 else 1 - math.sqrt(max(0, step - 48) / 12)
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        windows = torch.from_numpy(reader.batch(step * batch // length, batch // length))
        loss = F.cross_entropy(theirs(windows[:, :-1]).logits.flatten(0, 1), windows[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(loss.item())
    assert curve[-1] < curve[0] - 1
    assert training.losses == pytest.approx(curve, rel=2e-4)
