"""Documents packed into one window and kept apart are what they are alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

from trainer_small.architecture import Architecture
from trainer_small.model import attention
from trainer_small.model.attention import Kernel, Positions
from trainer_small.model.model import Model
from trainer_small.steps.objective import training_loss

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
@pytest.mark.parametrize("length", [20, 300, 512])
def test_the_gpu_s_attention_to_documents_computes_the_same(
    tiny_architecture: MakeArchitecture, kv_heads: int, length: int
) -> None:
    architecture = tiny_architecture(num_key_value_heads=kv_heads)
    torch.manual_seed(0)
    q = torch.randn(2, length, 4, 8)
    k, v = (torch.randn(2, length, kv_heads, 8) for _ in range(2))
    starts = torch.zeros(2, length, dtype=torch.bool)
    starts[0, [0, 7, 8]] = starts[1, [3, 15]] = True
    starts[1, length // 2 :: 70] = True
    made: dict[Kernel, Positions] = {
        kernel: Positions(architecture, length, torch.device("cpu"), torch.float32, kernel).within_documents(starts)
        for kernel in ("explicit", "cpu", "flex")
    }
    expected = attention.attend(q, k, v, made["cpu"], rotary=True)
    for kernel, positions in made.items():
        ours = attention.attend(q, k, v, positions, rotary=True)
        torch.testing.assert_close(ours, expected, msg=kernel)
    documents, blocks = made["flex"].documents, made["flex"].block_mask

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert documents is not None
        return (query >= key) & (documents[batch, query] == documents[batch, key])

    library = create_block_mask(sees, 2, None, length, length, device="cpu")
    assert torch.equal(blocks.to_dense(), library.to_dense())  # no block more is computed


def _further_losses(model: Model, windows: torch.Tensor) -> list[torch.Tensor]:
    """Of each multi-token-prediction module, the loss of every place, ``[batch, length - depth]``."""
    batch, length = len(windows), windows.shape[1] - 1
    hidden, losses = model(windows[:, :-1])[0].view(batch, length, -1), []
    for depth in range(1, len(model.multi_token) + 1):
        rows, _ = model.look_further(hidden[:, : length - depth].flatten(0, 1), windows[:, :-1], depth)
        hidden = rows.view(batch, length - depth, -1)
        losses.append(F.cross_entropy((hidden @ model.head.T).mT, windows[:, depth + 1 :], reduction="none"))
    return losses


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("modules", [1, 2, 3])
@pytest.mark.parametrize("changes", [{"num_experts": 0, "experts_per_token": 0, "num_shared_experts": 0}, {}, _MLA])
def test_a_document_is_nothing_to_the_further_tokens_of_another(
    tiny_architecture: MakeArchitecture,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    modules: int,
    fused: bool,
) -> None:
    if fused:
        monkeypatch.setattr(attention, "EXPLICIT_ATTENTION_BELOW", 0)
    model = _model(tiny_architecture(**changes, num_nextn_predict_layers=modules))
    model.document_separator = _SEPARATOR
    first, second, third = range(0, 7), range(7, 13), range(13, 20)  # inputs; the window's last token is only predicted
    windows = torch.randint(1, 256, (2, 21))
    windows[:, [7, 13]] = _SEPARATOR
    changed = windows.clone()
    changed[:, 8:13] = torch.randint(256, 512, (2, 5))  # ids of no other document
    before, after = _further_losses(model, windows), _further_losses(model, changed)
    # Experts multiply groups of other sizes after the change, which may round otherwise.
    rounding = {"rtol": 0, "atol": 1e-12 if model.architecture.num_experts else 0}
    for depth, (one, two) in enumerate(zip(before, after, strict=True), 1):
        for other in (first, third):
            inside = slice(other.start, other.stop - depth)
            torch.testing.assert_close(one[:, inside], two[:, inside], **rounding)
            gradient = torch.autograd.grad(two[:, inside].sum(), model.embedding.weight, retain_graph=True)[0]
            assert not gradient[256:].any() and gradient[:256].any()
        inside = slice(second.start, second.stop - depth)
        assert (one[:, inside] - two[:, inside]).abs().min() > 1e-6


@pytest.mark.parametrize("changes", [{"qk_norm": "per_head"}, _MLA])
def test_further_tokens_are_learnt_within_each_document(
    tiny_architecture: MakeArchitecture, changes: dict[str, Any]
) -> None:
    model = _model(tiny_architecture(**changes, num_nextn_predict_layers=2))
    # With their separators; the first of the second row has none, as where a window begins within a document.
    sizes, windows = [(1, 2, 9, 3, 4), (4, 1, 1, 2, 11)], torch.randint(1, 512, (2, 20))
    for row, row_sizes in enumerate(sizes):
        starts = torch.tensor(row_sizes).cumsum(0)[:-1]
        windows[row, starts] = _SEPARATOR
    windows[0, 0] = _SEPARATOR
    model.document_separator = _SEPARATOR
    loss, objective = training_loss(model, windows, multi_token_weight=0.6)
    gradient = torch.autograd.grad(objective, list(model.parameters()))

    model.document_separator = None
    losses: list[list[torch.Tensor]] = [[], [], []]
    for window, row_sizes in zip(windows, sizes, strict=True):
        start = 0
        for size in row_sizes:
            hidden, _ = model(window[None, start : start + size])
            for depth, found in enumerate(losses):
                if depth < size:
                    if depth:
                        hidden, _ = model.look_further(hidden[:-1], window[None, start : start + size], depth)
                    targets = window[start + depth + 1 : start + size + 1]
                    found.append(F.cross_entropy(hidden @ model.head.T, targets, reduction="none"))
            start += size
    means = [torch.cat(found).mean() for found in losses]
    torch.testing.assert_close(loss, means[0])
    expected = means[0] + 0.6 * (means[1] + means[2]) / 2
    torch.testing.assert_close(objective, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, list(model.parameters())))


def test_documents_too_short_to_look_further_teach_nothing(tiny_architecture: MakeArchitecture) -> None:
    model = _model(tiny_architecture(num_nextn_predict_layers=2))
    model.document_separator = _SEPARATOR
    loss, objective = training_loss(model, torch.full((2, 9), _SEPARATOR), multi_token_weight=0.6)
    assert torch.equal(objective, loss)
    objective.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert not name.startswith("multi_token.") or not parameter.grad.any(), name


def test_further_tokens_of_one_document_are_the_same_apart(tiny_architecture: MakeArchitecture) -> None:
    model = _model(tiny_architecture(num_nextn_predict_layers=2))
    windows = torch.randint(1, 512, (2, 20))
    together = training_loss(model, windows, multi_token_weight=0.6)
    model.document_separator = _SEPARATOR
    torch.testing.assert_close(training_loss(model, windows, multi_token_weight=0.6), together)
