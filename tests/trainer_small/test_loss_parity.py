"""Trained by the same recipe from the same weights, transformers' model and ours have the same loss curve."""

import pytest
import torch
import torch.nn.functional as F

from trainer_small.architecture import Architecture
from trainer_small.hf_weights import to_hugging_face
from trainer_small.loss import linear_cross_entropy
from trainer_small.model import Model

transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")


def test_the_loss_curve_is_that_of_transformers() -> None:
    architecture = Architecture(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        experts_per_token=2,
        expert_ffn_size=24,
    )
    torch.manual_seed(0)
    ours = Model(architecture)
    for parameter in ours.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    config = transformers.MixtralConfig(
        vocab_size=64,
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
