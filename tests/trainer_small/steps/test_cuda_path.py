"""The code that runs on a GPU, walked on a CPU: it never makes the host wait, is compiled once, and keeps to what the
kernels want. The numbers of a GPU are for ``tests/gpu``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.model import dispatch
from trainer_small.model.attention import Kernel, Positions, attend, attention_kernel
from trainer_small.model.dispatch import apply_experts
from trainer_small.model.expert_exchange import ExpertExchange
from trainer_small.model.model import Model
from trainer_small.model.moe import MixtureOfExperts
from trainer_small.runs.stacked import Stack
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.objective import training_loss
from trainer_small.steps.training import Training
from trainer_small.sweeps.sweep import run_config

MakeRun = Callable[..., RunSpec]
CPU = torch.device("cpu")
BF16 = torch.bfloat16

_MLA = {"attention": "mla", "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}
_MLA |= {"v_head_dim": 16, "moe_output_norm": True}
_OPTIONS: dict[str, dict[str, Any]] = {
    "grouped queries": {"architecture": {"qk_norm": "per_head"}},
    "latent attention": {"architecture": _MLA},
    "softmax, shared gate": {
        "architecture": {
            "router_score_function": "softmax",
            "router_selection_bias": False,
            "shared_expert_gate": True,
        },
        "training": {"balancing": "none"},
    },
    "groups of experts": {
        "architecture": {"num_experts": 8, "num_expert_groups": 4, "expert_groups_per_token": 2, "experts_per_token": 3}
    },
    "auxiliary losses": {
        "training": {"balancing": "auxiliary_loss", "router_z_loss": 0.1, "sequence_balance_loss": 0.1}
    },
    "further tokens": {"architecture": {"num_nextn_predict_layers": 2}},
    "layers again": {"activation_checkpointing": True},
    "parts of a batch": {"training": {"micro_batch_tokens": 32}},
    "muon": {"training": {"optimizer": "muon"}},
    "muon, latent": {"architecture": _MLA, "training": {"optimizer": "muon"}},
    "odd widths": {"architecture": {"hidden_size": 36, "expert_ffn_size": 20, "head_dim": 8}},
}


class _Reader:
    """Stands for a reader of tokens: others at every step."""

    end_of_text = 7

    def __init__(self, length: int) -> None:
        self._length = length

    def batch(self, position: int, count: int) -> np.ndarray:
        return np.random.default_rng(position).integers(0, 512, (count, self._length + 1))


def _training(run: RunSpec) -> Training:
    """As on a GPU, but for the device."""
    training = Training(run_config(run), _Reader(run.training.sequence_length), CPU)  # type: ignore[arg-type]
    _as_on_cuda(training.model)
    training.check_every = 16
    return training


def _as_on_cuda(model: Model) -> None:
    model.device_type = "cuda"
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.dispatch = "grouped"


_aten = torch.ops.aten
_WAIT = {
    _aten._local_scalar_dense, _aten.nonzero, _aten.equal, _aten.bincount, _aten.masked_select, _aten.is_nonzero,
    _aten._unique, _aten._unique2, _aten.unique_consecutive, _aten.unique_dim,
}  # fmt: skip


class _NoWaiting(TorchDispatchMode):
    """Fails at operators for which the host waits until a GPU has done all before them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        packet = func.overloadpacket
        assert packet not in _WAIT, f"the host would wait for {func}"
        if packet in (_aten.index, _aten.index_put, _aten.index_put_):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"the host would wait for {func} by a mask"
        if packet is _aten.repeat_interleave:
            assert (kwargs or {}).get("output_size") is not None, "the host would wait for how many rows there are"
        return func(*args, **(kwargs or {}))


@contextmanager
def _no_waiting(monkeypatch: pytest.MonkeyPatch, **instead: Any) -> Iterator[_NoWaiting]:
    """On a CPU these read memory without an operator."""

    def wait(*_: Any) -> None:
        raise AssertionError("the host would wait for a tensor's numbers")

    with monkeypatch.context() as patch, _NoWaiting() as mode:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, instead.get(name, wait))
        yield mode


@pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS)
def test_no_step_waits_for_the_device(run_spec: MakeRun, monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    training = _training(run_spec(**{"dtype": "bfloat16", **options}))
    training.advance()  # makes the moments
    with _no_waiting(monkeypatch) as mode:
        for _ in range(3):
            training.advance()
    assert mode.seen > 300
    training.settle()
    assert len(training.losses) == 4 and all(np.isfinite(training.losses))


def test_no_step_of_a_stack_waits_for_the_device(run_spec: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = [_training(run_spec(seed=seed, dtype="bfloat16")) for seed in range(3)]
    stack = Stack(trainings)
    _as_on_cuda(stack.model)
    with _no_waiting(monkeypatch):
        for training, loss in zip(trainings, stack.gradients(), strict=True):
            training.advance(loss)


def test_experts_on_other_ranks_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows travel the host must know; not again in the backward pass."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    waits = 0
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        nonlocal waits
        waits += 1
        return tolist(tensor)

    try:
        x, indices, weights, gate_up, down = _case(40, 2, 4, 32, 16)
        exchange = ExpertExchange(dist.group.WORLD, 1)
        with _no_waiting(monkeypatch, tolist=counted):
            exchange.apply_experts(x, indices, weights, gate_up, down, "grouped").sum().backward()
    finally:
        dist.destroy_process_group()
    assert waits == 1


def test_where_documents_begin_is_found_without_waiting(
    tiny_architecture: Callable[..., Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = Positions(tiny_architecture(), 200, CPU, BF16, "flex")
    starts = torch.rand(2, 200) < 0.05
    with _no_waiting(monkeypatch):
        positions.within_documents(starts)


def test_what_would_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(4)
    waits: list[Callable[[], Any]] = [
        lambda: x.sum().item(),
        lambda: x[x > 2],
        lambda: x.tolist(),
        lambda: torch.bincount(x),
        lambda: x.unique(),
        lambda: x.repeat_interleave(x),
        lambda: bool(x.sum() > 3),
        lambda: torch.where(x > 2),
    ]
    for wait in waits:
        with pytest.raises(AssertionError, match="the host would wait"), _no_waiting(monkeypatch):
            wait()


# One graph, once


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is captured and differentiated as for a GPU, and then run operator by operator."""
    compile_ = torch.compile

    def traced_only(model: Any = None, **options: Any) -> Any:
        return compile_(model, backend="aot_eager", **{key: options[key] for key in ("dynamic", "fullgraph")})

    monkeypatch.setattr(torch, "compile", traced_only)
    # FlexAttention's backward can be traced on a CPU, though there is no kernel.
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def _graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def _steps(model: Model, count: int, *, models: int = 0) -> None:
    for step in range(count):
        torch.manual_seed(step)
        windows = torch.randint(0, 512, (models, 4, 65) if models else (4, 65))
        windows[..., [3, 20 + step, 50]] = 7
        loss, objective = training_loss(model, windows, 0.3)
        (objective.sum() if models else objective).backward()
        assert torch.isfinite(loss).all()


def _model(architecture: Architecture) -> Model:
    torch.manual_seed(0)
    model = Model(architecture, dispatch="grouped", compute_dtype=BF16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    _as_on_cuda(model)
    return model


_SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {"qk_norm": "per_head"},
    "latent attention": _MLA,
    "further tokens": {"num_nextn_predict_layers": 2},
    "groups of experts": {"num_experts": 8, "num_expert_groups": 4, "expert_groups_per_token": 2},
}


@pytest.mark.parametrize("changes", _SHAPES.values(), ids=_SHAPES)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_are_captured_whole_and_once(
    tiny_architecture: Callable[..., Architecture],
    traced: None,
    changes: dict[str, Any],
    documents: bool,
    checkpointing: bool,
) -> None:
    model = _model(tiny_architecture(num_layers=4, head_dim=8, **changes))
    model.activation_checkpointing = checkpointing
    model.document_separator = 7 if documents else None
    compile_model(model)
    _steps(model, 1)
    first = _graphs()
    _steps(model, 4)
    assert _graphs() == first  # other routing, other documents: nothing is compiled again


@pytest.mark.parametrize("changes", _SHAPES.values(), ids=_SHAPES)
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.slow
def test_what_is_compiled_computes_the_same(
    tiny_architecture: Callable[..., Architecture], traced: None, changes: dict[str, Any], graphs: bool
) -> None:
    """The compiler of torch 2.11 has lost gradients and losses without a word."""
    found = []
    for compiled in (False, True):
        model = _model(tiny_architecture(num_layers=3, head_dim=8, **changes))
        if compiled:
            compile_model(model, graphs=graphs)
        torch.manual_seed(0)
        loss, objective = training_loss(model, torch.randint(0, 512, (4, 65)), 0.3)
        objective.backward()
        found.append({name: part.grad for name, part in model.named_parameters()} | {"loss": loss.detach()})
    for name, own in found[0].items():
        assert own is not None and own.norm() > 0, name
        # In bfloat16 a few tokens go to other experts.
        assert (found[1][name] - own).norm() <= (0.01 if name == "loss" else 0.25) * own.norm(), name


def test_layers_alike_are_compiled_once(tiny_architecture: Callable[..., Architecture], traced: None) -> None:
    found = []
    for layers in (3, 6):
        model = _model(tiny_architecture(num_layers=layers, head_dim=8))
        counters.clear()
        compile_model(model)
        _steps(model, 2)
        found.append(_graphs())
    assert found[0] == found[1] == 3  # a dense block, one with experts, and the loss


def test_a_whole_graph_to_replay_is_captured_once(tiny_architecture: Callable[..., Architecture], traced: None) -> None:
    model = _model(tiny_architecture(num_layers=3, head_dim=8))
    compile_model(model, graphs=True)
    _steps(model, 1)
    first = _graphs()
    _steps(model, 3)
    assert _graphs() == first


def test_a_compiled_stack_is_captured_once(run_spec: MakeRun, traced: None) -> None:
    stack = Stack([_training(run_spec(seed=seed, dtype="bfloat16")) for seed in range(2)])
    _as_on_cuda(stack.model)
    compile_model(stack.model)
    _steps(stack.model, 1, models=2)
    first = _graphs()
    _steps(stack.model, 3, models=2)
    assert _graphs() == first


# What the kernels want


class _GroupedRules(TorchDispatchMode):
    """What ``grouped_mm`` on CUDA asks of its arguments, and a CPU does not (SM90; torch 2.11 to 2.13)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket is _aten._grouped_mm:
            self.calls += 1
            a, b = args[:2]
            ends = args[2] if len(args) > 2 else kwargs["offs"]
            assert a.dtype == b.dtype == BF16 and ends.dtype == torch.int32
            assert len(ends) < 1024
            for matrix in (a, b):
                rows, columns = matrix.stride()[-2:]
                assert 1 in (rows, columns) and max(rows, columns) * matrix.element_size() % 16 == 0
                assert matrix.data_ptr() % 16 == 0
            if a.dim() == b.dim() == 2:  # sizes that a router makes must not be what rows of memory run along
                assert a.stride(0) == 1 and b.stride(1) == 1
        return func(*args, **kwargs)


def _case(n: int, k: int, experts: int, hidden: int, size: int, *, all_to: int | None = None) -> list[torch.Tensor]:
    torch.manual_seed(n + experts)
    indices = torch.stack([torch.randperm(experts)[:k] for _ in range(n)])
    if all_to is not None:
        indices = torch.full((n, 1), all_to)
    weights = torch.rand(indices.shape)
    parts = torch.randn(n, hidden), torch.randn(experts, 2 * size, hidden) / 4, torch.randn(experts, hidden, size) / 4
    x, gate_up, down = (part.to(BF16).requires_grad_() for part in parts)
    return [x, indices, weights.to(BF16).requires_grad_(), gate_up, down]


def _all_of(case: list[torch.Tensor], how: dispatch.Dispatch) -> list[torch.Tensor]:
    """Output and gradients, in float64; the loop is in float64 altogether."""
    parts = [part.detach().double() if how == "loop" and part.is_floating_point() else part.detach() for part in case]
    leaves = [part.requires_grad_() for part in parts if part.is_floating_point()]
    out = apply_experts(*parts, how)  # type: ignore[arg-type]
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [part.double() for part in (out.detach(), *torch.autograd.grad((out * probe).sum(), leaves))]


_CASES = {
    "even": _case(64, 2, 4, 32, 16),
    "one expert alone": _case(50, 1, 4, 32, 16, all_to=2),
    "the first alone": _case(50, 1, 4, 32, 16, all_to=0),
    "the last alone": _case(50, 1, 4, 32, 16, all_to=3),
    "more experts than tokens": _case(3, 2, 40, 32, 16),
    "one token": _case(1, 1, 4, 32, 16),
    "narrow": _case(40, 2, 4, 12, 6),
    "not of 16 bytes": _case(40, 2, 4, 36, 20),
}


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_grouped_products_keep_the_kernel_s_rules_and_equal_the_loop(case: list[torch.Tensor]) -> None:
    with _GroupedRules() as rules:
        ours = _all_of(case, "grouped")
    assert rules.calls == 6
    for own, truth in zip(ours, _all_of(case, "loop"), strict=True):
        assert (own - truth).norm() <= 0.02 * truth.norm()


@pytest.mark.parametrize(("stack", "experts"), [(1, 5), (4, 3), (3, 1)])
def test_more_groups_than_the_kernel_takes_go_in_parts(
    monkeypatch: pytest.MonkeyPatch, stack: int, experts: int
) -> None:
    case = [torch.stack(parts) for parts in zip(*(_case(30, 1, experts, 16, 8) for _ in range(stack)), strict=True)]
    if stack == 1:
        case = [part[0] for part in case]
    whole = _all_of(case, "grouped")
    monkeypatch.setattr(dispatch, "_MOST_GROUPS", 4)
    sizes: list[int] = []
    grouped_mm = torch.nn.functional.grouped_mm

    def counted(a: torch.Tensor, b: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(offs))
        return grouped_mm(a, b, offs=offs)

    monkeypatch.setattr(dispatch.F, "grouped_mm", counted)
    for own, truth in zip(_all_of(case, "grouped"), whole, strict=True):
        torch.testing.assert_close(own, truth)
    assert max(sizes) <= 4


@pytest.mark.parametrize("heads", [(4, 4, 24, 16), (4, 4, 16, 16), (4, 2, 16, 16), (6, 1, 8, 8)])
@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_fused_attention_gets_what_it_takes_and_computes_the_same(
    tiny_architecture: Callable[..., Architecture],
    monkeypatch: pytest.MonkeyPatch,
    heads: tuple[int, int, int, int],
    kernel: Kernel,
) -> None:
    count, kv_count, size, value_size = heads
    architecture = tiny_architecture(num_attention_heads=count, num_key_value_heads=kv_count, head_dim=size)
    torch.manual_seed(0)
    q = torch.randn(2, 9, count, size, requires_grad=True)
    k, v = (torch.randn(2, 9, kv_count, width, requires_grad=True) for width in (size, value_size))
    fused = torch.nn.functional.scaled_dot_product_attention

    def checked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **options: Any) -> torch.Tensor:
        assert mask is None and options["is_causal"]
        if kernel == "flash":
            assert q.shape[-1] == k.shape[-1] == v.shape[-1]
        else:
            assert q.shape[1] == k.shape[1] == v.shape[1] and not options["enable_gqa"]
        return fused(q, k, v, mask, **options)

    found = []
    for name in (kernel, "explicit"):
        if name == kernel:
            monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", checked)
        out = attend(q, k, v, Positions(architecture, 9, CPU, torch.float32, name), rotary=True)
        found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for own, truth in zip(*found, strict=True):
        torch.testing.assert_close(own, truth)


def test_the_kernel_of_attention_goes_by_type_and_heads(tiny_architecture: Callable[..., Architecture]) -> None:
    latent = {**_MLA, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    for changes in ({}, latent):
        architecture = tiny_architecture(**changes)
        assert attention_kernel(architecture, 4096, "cuda", BF16) == "flash"
        assert attention_kernel(architecture, 4096, "cuda", torch.float32) == "efficient"
        assert attention_kernel(architecture, 4096, "cuda", BF16, documents_apart=True) == "flex"
        assert attention_kernel(architecture, 4096, "cpu", BF16) == "cpu"
        assert attention_kernel(architecture, 64, "cpu", BF16) == "explicit"
    assert attention_kernel(tiny_architecture(head_dim=512), 64, "cuda", BF16) == "efficient"


# Whatever the parts of a batch, the same experiment


@pytest.mark.parametrize("balancing", ["bias", "auxiliary_loss"])
def test_gradients_do_not_depend_on_the_parts_of_a_batch(run_spec: MakeRun, balancing: str) -> None:
    recipe = {"balancing": balancing, "balancing_rate": 0.1, "router_z_loss": 0.1, "sequence_balance_loss": 0.1}
    architecture = {"router_selection_bias": balancing == "bias"}
    runs = [
        run_spec(training={**recipe, "micro_batch_tokens": micro}, architecture=architecture) for micro in (None, 32)
    ]
    trainings = [Training(run_config(run), _Reader(32), CPU) for run in runs]  # type: ignore[arg-type]
    for _ in range(3):
        gradients = []
        for training in trainings:
            training._gradients(training.batches.of(training.step))
            gradients.append({name: part.grad.clone() for name, part in training.model.named_parameters()})  # type: ignore[union-attr]
            for router in training.model.routers():
                router.load.zero_()
            training.optimizer.zero_grad()
        for name, own in gradients[0].items():
            assert (own - gradients[1][name]).norm() <= 1e-5 * own.norm() + 1e-9, name
        for training in trainings:
            training.advance()


def test_the_auxiliary_loss_evens_the_load(run_spec: MakeRun) -> None:
    """By shares of the batch before, as well as by those of its own."""
    violations = []
    for rate in (0.0, 0.05):
        recipe = {"balancing": "auxiliary_loss", "balancing_rate": rate, "batch_tokens": 512, "tokens": 512 * 200}
        run = run_spec(training=recipe, architecture={"router_selection_bias": False})
        training = Training(run_config(run), _Reader(32), CPU)  # type: ignore[arg-type]
        for _ in range(60):
            training.advance()
            training.losses.clear()
        training._gradients(training.batches.of(training.step))
        loads = torch.stack([router.load for router in training.model.routers()]).float()
        violations.append((loads.max() / loads.mean()).item() - 1)
    assert violations[1] < violations[0] / 2
