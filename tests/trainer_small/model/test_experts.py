"""Routing and dispatch: every way equals the plain loop, at every edge, forward and backward."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_small.architecture import Architecture
from trainer_small.model.dispatch import Dispatch, apply_experts
from trainer_small.model.expert_exchange import ExpertExchange
from trainer_small.model.router import Router
from trainer_small.model.router_load import router_load

MakeArchitecture = Callable[..., Architecture]


def _outputs(dispatch, x, indices, weights, gate_up, down, probe, apply=apply_experts):
    leaves = [part.detach().clone().requires_grad_() for part in (x, weights, gate_up, down)]
    out = apply(leaves[0], indices, leaves[1], leaves[2], leaves[3], dispatch)
    return out, *torch.autograd.grad((out * probe).sum(), leaves)


def _case(tokens: int, k: int, experts: int, dtype: torch.dtype, seed: int, size: int = 8):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    indices = torch.rand(tokens, experts, generator=generator).topk(k).indices
    return (
        random(tokens, 8),
        indices,
        random(tokens, k).abs(),
        random(experts, 2 * size, 8),
        random(experts, 8, size),
        random(tokens, 8),
    )


@pytest.mark.parametrize("dispatch", ["sorted", "grouped"])
@given(st.integers(1, 40), st.integers(1, 6), st.data(), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_every_dispatch_equals_the_loop(
    dispatch: Dispatch, tokens: int, experts: int, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(1, experts))
    case = _case(tokens, k, experts, torch.float64, seed, size=data.draw(st.integers(1, 9)))
    for ours, truth in zip(_outputs(dispatch, *case), _outputs("loop", *case), strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("dispatch", ["sorted", "grouped"])
@pytest.mark.parametrize("edge", ["all to one expert", "an expert with no token", "every expert", "one token"])
def test_edges_of_routing(dispatch: Dispatch, edge: str) -> None:
    k = 4 if edge == "every expert" else 1
    x, indices, weights, gate_up, down, probe = _case(24, k, 4, torch.float64, 0)
    if edge == "all to one expert":
        indices = torch.full_like(indices, 2)
    elif edge == "an expert with no token":
        indices = indices.clamp_min(1)
    elif edge == "one token":
        x, indices, weights, probe = x[:1], indices[:1], weights[:1], probe[:1]
    case = (x, indices, weights, gate_up, down, probe)
    for ours, truth in zip(_outputs(dispatch, *case), _outputs("loop", *case), strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 5])  # the kernel takes rows of whole 16 bytes alone
def test_the_grouped_kernel_equals_the_loop(dtype: torch.dtype, size: int) -> None:
    case = _case(50, 3, 5, dtype, 1, size)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    for ours, truth in zip(_outputs("grouped", *case), _outputs("loop", *case), strict=True):
        assert ours.dtype == dtype
        assert (ours - truth).norm() < tolerance * truth.norm()


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("tokens", [7, 0])
@pytest.mark.parametrize("dispatch", ["sorted", "grouped"])
def test_experts_behind_an_exchange_are_the_same(group: dist.ProcessGroup, dispatch: Dispatch, tokens: int) -> None:
    x, indices, weights, gate_up, down, probe = _case(7, 2, 4, torch.float64, 3)
    case = (x[:tokens], indices[:tokens], weights[:tokens], gate_up, down, probe[:tokens])
    exchange = ExpertExchange(group, 1).apply_experts
    ours = _outputs(dispatch, *case, apply=exchange)
    for own, truth in zip(ours, _outputs("loop", *case), strict=True):
        torch.testing.assert_close(own, truth)


def _router(architecture: Architecture) -> Router:
    torch.manual_seed(0)
    router = Router(architecture)
    torch.nn.init.normal_(router.weight)
    return router


def test_gates_are_normalised_and_scaled(tiny_architecture: MakeArchitecture) -> None:
    router = _router(tiny_architecture(router_scaling_factor=2.5))
    routing = router(torch.randn(10, 32))
    torch.testing.assert_close(routing.weights.sum(-1), torch.full((10,), 2.5))
    assert routing.load.sum() == 20


def test_group_limited_routing_stays_within_the_best_groups(tiny_architecture: MakeArchitecture) -> None:
    architecture = tiny_architecture(
        num_experts=12, experts_per_token=3, num_expert_groups=4, expert_groups_per_token=2
    )
    indices = _router(architecture)(torch.randn(200, 32)).indices
    groups_used = [len(set((row // 3).tolist())) for row in indices]
    assert max(groups_used) == 2
    assert len(indices.unique()) == 12


def test_the_selection_bias_evens_the_load_and_leaves_the_gates_alone(tiny_architecture: MakeArchitecture) -> None:
    router = _router(tiny_architecture())
    with torch.no_grad():
        router.weight *= 0.1  # scores that are not saturated
    x = torch.randn(400, 32) + 20 * router.weight[0].detach()  # everybody likes expert 0
    before = router_load([router(x).load])
    assert before is not None
    for _ in range(300):
        routing = router(x)
        router.load += routing.load
        router.end_batch(0.01)
    after = router_load([router(x).load])
    assert after is not None and after.max_violation < before.max_violation / 3
    assert router.selection_bias is not None and abs(router.selection_bias.mean()) < 1e-6
    scores = (x @ router.weight.T).sigmoid().gather(1, routing.indices)
    torch.testing.assert_close(routing.weights, scores / scores.sum(-1, keepdim=True))


def test_the_auxiliary_loss_is_one_when_even_and_k_times_more_when_not(tiny_architecture: MakeArchitecture) -> None:
    router = Router(
        tiny_architecture(router_score_function="softmax", experts_per_token=1, router_selection_bias=False)
    )
    router.auxiliary_loss_weight = 1.0
    torch.nn.init.zeros_(router.weight)
    loss = router(torch.randn(8, 32)).loss
    assert loss is not None and loss.item() == pytest.approx(1.0)  # equal scores: whatever the choice, it is 1
    with torch.no_grad():
        router.weight[1] = 100.0
    loss = router(torch.ones(8, 32)).loss
    assert loss is not None and loss.item() == pytest.approx(4.0)


def test_the_sequence_loss_sees_what_the_batch_hides(tiny_architecture: MakeArchitecture) -> None:
    router = Router(tiny_architecture(router_score_function="softmax", experts_per_token=1))
    with torch.no_grad():
        router.weight.copy_(100 * torch.eye(4, 32))
    x = torch.eye(4, 32).repeat_interleave(3, 0)  # each sequence has an expert of its own
    router.auxiliary_loss_weight = 1.0
    assert router(x, 4).loss.item() == pytest.approx(1.0)
    router.auxiliary_loss_weight, router.sequence_loss_weight = 0.0, 0.5
    assert router(x, 4).loss.item() == pytest.approx(0.5 * 4.0)
    assert router(x, 1).loss.item() == pytest.approx(0.5 * 1.0)


def test_the_z_loss_is_the_squared_log_partition(tiny_architecture: MakeArchitecture) -> None:
    router = _router(tiny_architecture())
    router.z_loss_weight = 0.5
    x = torch.randn(6, 32)
    expected = 0.5 * (x @ router.weight.T).logsumexp(-1).square().mean()
    torch.testing.assert_close(router(x).loss, expected)


def test_router_load_of_even_and_dead_experts() -> None:
    load = router_load([torch.tensor([4, 4, 4, 4]), torch.tensor([8, 8, 0, 0])])
    assert load is not None
    assert (load.entropy, load.max_violation, load.dead_experts) == (pytest.approx(0.75), pytest.approx(1.0), 2)
    assert router_load([]) is None
