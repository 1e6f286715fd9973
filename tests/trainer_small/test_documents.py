"""Documents packed into one window and kept apart are what they are alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer_small.architecture import Architecture
from trainer_small.model import attention
from trainer_small.model.attention import Positions
from trainer_small.model.model import Model

MakeArchitecture = Callable[..., Architecture]

_MLA = {"attention": "mla", "q_lora_rank": 12, "kv_lora_rank": 8}
_MLA |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
_SEPARATOR = 0


def _model(architecture: Architecture) -> Model:
    torch.manual_seed(0)
    model = Model(architecture, compute_dtype=torch.float64).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("changes", [{"qk_norm": "per_head"}, _MLA])
def test_packed_documents_equal_separate_ones(
    tiny_architecture: MakeArchitecture, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], fused: bool
) -> None:
    if fused:
        monkeypatch.setattr(attention, "EXPLICIT_ATTENTION_BELOW", 0)
    model = _model(tiny_architecture(**changes))
    documents = [torch.randint(1, 512, (size,)) for size in (5, 1, 9, 3)]
    separated = [torch.cat((torch.tensor([_SEPARATOR]), document)) for document in documents]
    # One row begins in the middle of a document, as a window of the stream does.
    order = [separated, [torch.randint(1, 512, (10,)), separated[0], separated[1], separated[3]]]
    packed = torch.stack([torch.cat(pieces) for pieces in order])
    model.document_separator = _SEPARATOR
    ours = model(packed)[0].view(*packed.shape, -1)
    probe = torch.randn_like(ours)
    parameters = [parameter for name, parameter in model.named_parameters() if name != "lm_head.weight"]
    gradient = torch.autograd.grad((ours * probe).sum(), parameters)

    model.document_separator = None
    expected = torch.empty_like(ours)
    for row, pieces in enumerate(order):
        alone = torch.cat([model(piece.unsqueeze(0))[0] for piece in pieces])
        torch.testing.assert_close(ours[row], alone)
        expected[row] = alone
    wanted = torch.autograd.grad((expected * probe).sum(), parameters)
    torch.testing.assert_close(gradient, wanted)
    assert not torch.allclose(model(packed)[0].view_as(ours), ours)  # without the mask they see each other


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_the_gpu_s_attention_to_documents_computes_the_same(
    tiny_architecture: MakeArchitecture, monkeypatch: pytest.MonkeyPatch, kv_heads: int
) -> None:
    monkeypatch.setattr(attention, "EXPLICIT_ATTENTION_BELOW", 0)
    architecture = tiny_architecture(num_key_value_heads=kv_heads)
    torch.manual_seed(0)
    q = torch.randn(2, 20, 4, 8)
    k, v = (torch.randn(2, 20, kv_heads, 8) for _ in range(2))
    starts = torch.zeros(2, 20, dtype=torch.bool)
    starts[0, [0, 7, 8]] = starts[1, [3, 15]] = True
    positions = Positions(architecture, 20, torch.device("cpu"), torch.float32).within_documents(starts)
    expected = attention.attend(q, k, v, positions, rotary=True)
    assert positions.documents is not None
    positions.block_mask = attention._document_blocks(positions.documents)
    ours = attention.attend(q, k, v, positions, rotary=True)
    torch.testing.assert_close(ours, expected)
