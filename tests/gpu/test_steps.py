"""Training steps on the card: compiled as eager, without a wait, the same bits again, in the memory that was said."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from trainer_small.steps.memory_estimate import memory_estimate
from trainer_small.steps.objective import training_loss
from trainer_small.steps.training import Training

pytestmark = pytest.mark.gpu
Make = Callable[..., Training]

_MLA = {"attention": "mla", "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16}
_MLA |= {"v_head_dim": 32, "moe_output_norm": True}
_OPTIONS: dict[str, dict[str, Any]] = {
    "grouped queries": {"architecture": {"qk_norm": "per_head"}},
    "latent attention": {"architecture": _MLA},
    "no shared expert": {"architecture": {"num_shared_experts": 0}},
    "shared expert with a gate": {"architecture": {"shared_expert_gate": True}},
    "further tokens": {"architecture": {"num_nextn_predict_layers": 2}},
    "layers again": {"activation_checkpointing": True},
    "documents apart": {"training": {"cross_document_attention": False}},
    "documents apart, latent": {"architecture": _MLA, "training": {"cross_document_attention": False}},
    "auxiliary losses": {
        "training": {"balancing": "auxiliary_loss", "router_z_loss": 0.01, "sequence_balance_loss": 0.01}
    },
    "parts of a batch": {"training": {"micro_batch_tokens": 256}},
    "muon": {"training": {"optimizer": "muon"}},
    "muon, latent": {"architecture": _MLA, "training": {"optimizer": "muon"}},
}


_CARD_ALONE = ("no shared expert", "shared expert with a gate", "parts of a batch", "documents apart, latent")
"""Compiled for a card alone: each takes a CPU's compiler most of a minute, and the others have their parts."""


def _saved(training: Training) -> dict[str, Any]:
    """Its state through a file, as a checkpoint has it."""
    file = io.BytesIO()
    torch.save(training.state(), file)
    file.seek(0)
    return torch.load(file, map_location=training.device, weights_only=True)


def _gradients(training: Training, windows: torch.Tensor) -> torch.Tensor:
    _, objective = training_loss(training.model, windows, training.config.training.multi_token_weight)
    objective.backward()
    grads = [part.grad.flatten() for part in training.model.parameters() if part.grad is not None]
    training.optimizer.zero_grad()
    for router in training.model.routers():
        router.load.zero_()
    return torch.cat(grads)


@pytest.mark.slow
@pytest.mark.parametrize("name", _OPTIONS)
def test_a_compiled_step_is_the_eager_one(name: str, training: Make, device: torch.device) -> None:
    if device.type == "cpu" and name in _CARD_ALONE:
        pytest.skip("compiled for a card alone")
    options = _OPTIONS[name]
    eager = training(**options)
    for _ in range(4):  # at its start the head is zero, and nothing but the head has a gradient
        eager.advance()
    compiled = training(**options, compile=True)
    compiled.restore(_saved(eager))
    windows = eager.batches.of(eager.step)
    if name == "parts of a batch":
        windows = windows[:1]  # what it is compiled for
    expected, ours = _gradients(eager, windows), _gradients(compiled, windows)
    assert expected.norm() > 0
    assert (ours - expected).norm() < 0.05 * expected.norm()
    for _ in range(3):
        eager.advance()
        compiled.advance()
    eager.settle()
    compiled.settle()
    assert compiled.losses == pytest.approx(eager.losses, abs=0.03)
    assert eager.losses[-1] < eager.losses[0]


@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS)
def test_no_step_waits_for_the_card(options: Any, training: Make, cuda: torch.device) -> None:
    subject = training(**options)
    for _ in range(2):  # kernels are chosen and moments made
        subject.advance()
    torch.cuda.synchronize(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            subject.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    subject.settle()
    assert len(subject.losses) == 6


@pytest.fixture
def deterministic() -> Iterator[None]:
    # The bits are asked, not the flag: an operator that only might differ is warned of.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_bits(
    optimizer: str, compiled: bool, training: Make, deterministic: None
) -> None:
    options: dict[str, Any] = {"training": {"optimizer": optimizer}, "compile": compiled}
    whole, first, second = (training(**options) for _ in range(3))
    for _ in range(6):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.restore(_saved(first))
    for _ in range(3):
        second.advance()
    expected = _saved(whole)["model"]
    found = _saved(second)["model"]
    assert whole.losses == second.losses
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


@pytest.mark.parametrize("micro", [16384, 4096])
@pytest.mark.parametrize("again", [False, True], ids=["", "layers again"])
@pytest.mark.parametrize("attention", ["gqa", "mla"])
def test_memory_is_what_was_said(attention: str, again: bool, micro: int, training: Make, cuda: torch.device) -> None:
    shape = {"hidden_size": 512, "num_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}
    shape |= {"vocab_size": 16384, "num_experts": 32, "expert_ffn_size": 128, "dense_ffn_size": 512}
    if attention == "mla":
        shape |= _MLA | {"num_key_value_heads": 8}
    recipe = {"sequence_length": 1024, "batch_tokens": 16384, "micro_batch_tokens": micro}
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    subject = training(architecture=shape, training=recipe, activation_checkpointing=again)
    for _ in range(2):
        subject.advance()
    taken = torch.cuda.max_memory_allocated(cuda) - before
    said = memory_estimate(subject.config, cuda=True).tensors
    workspaces = 2**26  # of cuBLAS, which no prediction of tensors counts
    assert abs(taken - said) < 0.08 * said + workspaces, f"{taken / 2**20:.0f} MiB taken, {said / 2**20:.0f} said"
