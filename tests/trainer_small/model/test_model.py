"""The modules are what the architecture says, to the last parameter and FLOP, and do what their formulas say."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.model.attention import Positions, attend
from trainer_small.model.model import Model, params_by_role
from trainer_small.model.norm import RMSNorm
from trainer_small.model.rotary import rotary_table, rotate
from trainer_small.steps import loss as loss_module
from trainer_small.steps.loss import linear_cross_entropy
from trainer_small.steps.objective import training_loss

MakeArchitecture = Callable[..., Architecture]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    data = {
        "vocab_size": draw(st.integers(1, 300)),
        "hidden_size": draw(st.integers(1, 40)),
        "num_layers": draw(st.integers(1, 4)),
        "num_attention_heads": kv_heads * groups,
        "tied_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "attention_output_bias": draw(st.booleans()),
        "dense_ffn_bias": draw(st.booleans()),
        "dense_ffn_size": draw(st.integers(1, 40)),
        "num_nextn_predict_layers": draw(st.integers(0, 2)),
    }
    if draw(st.booleans()):
        data |= {
            "attention": "mla",
            "q_lora_rank": draw(st.none() | st.integers(1, 20)),
            "kv_lora_rank": draw(st.integers(1, 20)),
            "qk_nope_head_dim": draw(st.integers(1, 20)),
            "qk_rope_head_dim": 2 * draw(st.integers(1, 8)),
            "v_head_dim": draw(st.integers(1, 20)),
        }
    else:
        data |= {
            "num_key_value_heads": kv_heads,
            "head_dim": 2 * draw(st.integers(1, 10)),
            "qk_norm": draw(st.sampled_from(["none", "per_head", "full_width"])),
        }
    if draw(st.booleans()):
        expert_groups = draw(st.integers(1, 3))
        experts = expert_groups * draw(st.integers(1, 4))
        data |= {
            "num_experts": experts,
            "num_expert_groups": expert_groups,
            "expert_groups_per_token": expert_groups,
            "experts_per_token": draw(st.integers(1, experts)),
            "num_shared_experts": draw(st.integers(0, 2)),
            "expert_ffn_size": draw(st.integers(1, 20)),
            "shared_expert_ffn_size": draw(st.integers(1, 20)),
            "num_dense_layers": (leading := draw(st.integers(0, data["num_layers"]))),
            "other_dense_layers": tuple(
                draw(st.sets(st.integers(leading, data["num_layers"]), max_size=2)) - {data["num_layers"]}
            ),
            "moe_output_norm": draw(st.booleans()),
            "router_selection_bias": draw(st.booleans()),
            "router_bias": draw(st.booleans()),
        }
        data["shared_expert_gate"] = data["num_shared_experts"] > 0 and draw(st.booleans())
    return Architecture.parse(data, "drawn")


@given(architectures())
@settings(max_examples=150, deadline=None)
def test_the_modules_have_exactly_the_parameters_that_the_architecture_counts(architecture: Architecture) -> None:
    with torch.device("meta"):
        model = Model(architecture)
    assert params_by_role(model) == architecture.params_by_role()
    built = sum(parameter.numel() for parameter in model.parameters())
    assert built == architecture.params_total + architecture.multi_token_params


@given(architectures())
@settings(max_examples=15, deadline=None)
def test_the_modules_do_exactly_the_flops_that_the_architecture_counts(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = Model(architecture, dispatch="loop")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    length = 8
    with FlopCounterMode(display=False) as counter:
        model.logits(torch.zeros(2, length, dtype=torch.int64))
    assert counter.get_total_flops() * 3 == 2 * length * architecture.flops_per_token(length, causal=False)
    hidden = torch.zeros(2 * length, architecture.hidden_size)
    for depth in range(1, architecture.num_nextn_predict_layers + 1):
        with FlopCounterMode(display=False) as counter:
            hidden, _ = model.look_further(hidden, torch.zeros(2, length + depth, dtype=torch.int64), depth)
            F.linear(hidden, model.head)
        one = architecture.multi_token_flops_per_token(length, causal=False) // architecture.num_nextn_predict_layers
        assert counter.get_total_flops() * 3 == 2 * length * one


@pytest.mark.parametrize("key", ["attention_sinks", "expert_bias"])
def test_what_is_not_built_is_refused(tiny_architecture: MakeArchitecture, key: str) -> None:
    with pytest.raises(UserError, match=key):
        Model(tiny_architecture(**{key: True}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": "per_head"},
        {"qk_norm": "full_width", "num_experts": 0, "experts_per_token": 0, "num_shared_experts": 0},
        {
            "attention": "mla",
            "q_lora_rank": 12,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 6,
            "qk_rope_head_dim": 4,
            "v_head_dim": 5,
        },
    ],
)
def test_no_token_sees_the_future(tiny_architecture: MakeArchitecture, changes: dict) -> None:
    torch.manual_seed(0)
    model = Model(tiny_architecture(**changes)).double().eval()
    model.compute_dtype = torch.float64
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randint(0, 512, (1, 12))
    changed = tokens.clone()
    changed[0, 7:] = torch.randint(0, 512, (5,))
    before, after = model.logits(tokens), model.logits(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize(("heads", "kv_heads", "value_size"), [(4, 4, 6), (4, 2, 6), (3, 1, 6), (2, 2, 5)])
def test_explicit_attention_equals_the_library(heads: int, kv_heads: int, value_size: int) -> None:
    torch.manual_seed(0)
    make = lambda count, size: torch.randn(2, 9, count, size, dtype=torch.float64, requires_grad=True)  # noqa: E731
    q, k, v = make(heads, 6), make(kv_heads, 6), make(kv_heads, value_size)
    architecture = Architecture(
        vocab_size=1,
        hidden_size=1,
        num_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=6,
        dense_ffn_size=1,
    )
    positions = Positions(architecture, 9, torch.device("cpu"), torch.float64)

    def library() -> torch.Tensor:
        turned = [rotate(part, positions.cos, positions.sin).transpose(1, 2) for part in (q, k)]
        out = F.scaled_dot_product_attention(*turned, v.transpose(1, 2), is_causal=True, enable_gqa=True)
        return out.transpose(1, 2)

    ours = attend(q, k, v, positions, rotary=True)
    torch.testing.assert_close(ours, library())
    weight = torch.randn_like(ours)
    expected = torch.autograd.grad((library() * weight).sum(), (q, k, v))
    torch.testing.assert_close(torch.autograd.grad((ours * weight).sum(), (q, k, v)), expected)


def test_the_norm_is_the_formula_forward_and_backward() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(7, 1e-5).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (7,), norm.weight, 1e-5))
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    cos, sin = rotary_table(20, 8, 10000.0, torch.device("cpu"), torch.float64)
    torch.manual_seed(0)
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    turned_q, turned_k = (rotate(part.expand(20, 1, 8), cos, sin)[:, 0] for part in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(20))
    torch.testing.assert_close(turned_q[9] @ turned_k[4], turned_q[15] @ turned_k[10])


@pytest.mark.parametrize("form", ["_eager_chunk", "_fusible_chunk"])
@pytest.mark.parametrize("chunk", [8, 64, 10**6])
def test_chunked_cross_entropy_equals_the_plain_loss(monkeypatch: pytest.MonkeyPatch, chunk: int, form: str) -> None:
    monkeypatch.setattr("trainer_small.steps.loss._CPU_ENTRIES", chunk * 16)
    monkeypatch.setattr("trainer_small.steps.loss._FEWEST_ROWS", 1)
    monkeypatch.setattr("trainer_small.steps.loss._CACHED_ENTRIES", 3 * 16)
    monkeypatch.setattr("trainer_small.steps.loss._eager_chunk", getattr(loss_module, form))
    torch.manual_seed(0)
    hidden = torch.randn(50, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(16, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 16, (50,))
    plain = F.cross_entropy(hidden @ head.T, targets)
    ours = linear_cross_entropy(hidden, head, targets)
    torch.testing.assert_close(ours, plain)
    expected = torch.autograd.grad(plain * 3, (hidden, head))
    torch.testing.assert_close(torch.autograd.grad(ours * 3, (hidden, head)), expected)


@pytest.mark.parametrize("form", ["_eager_chunk", "_fusible_chunk"])
def test_the_loss_is_the_mean_over_the_rows_that_count(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("trainer_small.steps.loss._CPU_ENTRIES", 8 * 16)
    monkeypatch.setattr("trainer_small.steps.loss._FEWEST_ROWS", 1)
    monkeypatch.setattr("trainer_small.steps.loss._CACHED_ENTRIES", 3 * 16)
    monkeypatch.setattr("trainer_small.steps.loss._eager_chunk", getattr(loss_module, form))
    torch.manual_seed(0)
    hidden = torch.randn(2, 50, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(2, 16, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 16, (2, 50))
    counted = torch.rand(2, 50) < 0.4
    plain = [F.cross_entropy(h[own] @ w.T, t[own]) for h, w, t, own in zip(hidden, head, targets, counted, strict=True)]
    stack = linear_cross_entropy(hidden, head, targets, counted=counted)
    torch.testing.assert_close(stack, torch.stack(plain))
    one = linear_cross_entropy(hidden[0], head[0], targets[0], counted=counted[0])
    for ours, truth in ((stack.sum(), plain[0] + plain[1]), (one, plain[0])):
        expected = torch.autograd.grad(truth * 3, (hidden, head), retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(ours * 3, (hidden, head)), expected)

    none = linear_cross_entropy(hidden, head, targets, counted=torch.zeros_like(counted))
    assert not none.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(none.sum(), (hidden, head)))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_in_bfloat16_is_the_plain_one_within_its_rounding(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """The head's gradient is added up in float32, in parts of the vocabulary that do not divide it evenly."""
    monkeypatch.setattr("trainer_small.steps.loss._CPU_ENTRIES", 16 * 100)
    monkeypatch.setattr("trainer_small.steps.loss._FEWEST_ROWS", 1)
    monkeypatch.setattr("trainer_small.steps.loss._CACHED_ENTRIES", 3 * 100)
    monkeypatch.setattr("trainer_small.steps.loss._HEAD_ROWS", 33)
    torch.manual_seed(0)
    hidden = torch.randn(50, 16, dtype=torch.bfloat16, requires_grad=True)
    head = torch.randn(100, 16, requires_grad=True)
    targets = torch.randint(0, 100, (50,))
    plain = F.cross_entropy(hidden.float() @ head.to(torch.bfloat16).float().T, targets)
    ours = linear_cross_entropy(hidden, head, targets, compiled=compiled)
    torch.testing.assert_close(ours, plain, rtol=4e-3, atol=0)
    wanted, found = (torch.autograd.grad(each, (hidden, head)) for each in (plain, ours))
    assert found[1].dtype == torch.float32
    for mine, truth in zip(found, wanted, strict=True):
        assert (mine - truth).norm() < 0.01 * truth.norm()


def test_further_tokens_are_predicted_from_what_comes_before_them(tiny_architecture: MakeArchitecture) -> None:
    torch.manual_seed(0)
    model = Model(tiny_architecture(num_nextn_predict_layers=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    windows = torch.randint(0, 512, (3, 12))
    loss, objective = training_loss(model, windows, multi_token_weight=0.6)
    plain = F.cross_entropy(model.logits(windows[:, :-1]).flatten(0, 1), windows[:, 1:].reshape(-1))
    torch.testing.assert_close(loss, plain)

    # Place by place: the prediction of token i + 3 from the states at i and tokens up to i + 2.
    hidden = model(windows[:, :11])[0].view(3, 11, -1)
    first = model.look_further(hidden[:, :10].flatten(0, 1), windows[:, :11], 1)[0].view(3, 10, -1)
    second = model.look_further(first[:, :9].flatten(0, 1), windows[:, :11], 2)[0].view(3, 9, -1)
    logits = [F.linear(states, model.head).flatten(0, 1) for states in (first, second)]
    further = [F.cross_entropy(one, windows[:, skip:].reshape(-1)) for one, skip in zip(logits, (2, 3), strict=True)]
    torch.testing.assert_close(objective, plain + 0.6 * (further[0] + further[1]) / 2)

    changed = windows.clone()
    changed[:, 8:] = 1  # what lies further on changes no earlier prediction
    hidden_too = model(changed[:, :11])[0].view(3, 11, -1)
    first_too = model.look_further(hidden_too[:, :10].flatten(0, 1), changed[:, :11], 1)[0].view(3, 10, -1)
    torch.testing.assert_close(first_too[:, :7], first[:, :7])
    assert not torch.allclose(first_too[:, 7], first[:, 7])


def test_bfloat16_stays_near_float32(tiny_architecture: MakeArchitecture) -> None:
    architecture = tiny_architecture(router_score_function="softmax", moe_output_norm=True)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = Model(architecture, compute_dtype=dtype)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        tokens = torch.randint(0, 512, (4, 17))
        hidden, _ = model(tokens[:, :-1])
        loss = linear_cross_entropy(hidden, model.head, tokens[:, 1:].reshape(-1))
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
