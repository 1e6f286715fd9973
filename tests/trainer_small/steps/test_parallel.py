"""Several processes on one machine compute what one computes: every way to spread a model, and back from checkpoints.

Run as a script, with a torchrun rank's environment, this file is one of those processes.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from trainer_small.architecture import Architecture
from trainer_small.config import ParallelConfig, RunConfig
from trainer_small.machine.live_bytes import LiveBytes
from trainer_small.machine.ranks import Ranks
from trainer_small.model.model import Model
from trainer_small.result import Result, read_result
from trainer_small.runs.checkpoint import load_checkpoint
from trainer_small.runs.run import run_one
from trainer_small.runs.run_loop import RunLoop
from trainer_small.steps import gradient_average
from trainer_small.steps.gradient_average import GradientAverage
from trainer_small.steps.muon import orthogonalize
from trainer_small.steps.optimizer import make_optimizer
from trainer_small.steps.parallel import Parallel, _local
from trainer_small.training_config import TrainingConfig

RunFolder = Callable[..., Path]

_SPREAD = {
    "data parallel": {},
    "experts over ranks": {"expert_parallel": 2},
    "sharded": {"shard_parameters": True},
    "sharded, experts over ranks": {"shard_parameters": True, "expert_parallel": 2},
}
_RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw, parts": {"micro_batch_tokens": 32},
    "muon, parts": {"optimizer": "muon", "micro_batch_tokens": 32},
    "adamw, auxiliary loss, parts": {"balancing": "auxiliary_loss", "balancing_rate": 0.1, "micro_batch_tokens": 32},
    "muon, auxiliary loss": {"optimizer": "muon", "balancing": "auxiliary_loss", "balancing_rate": 0.1},
}
_STEPS = 6


# One of the processes


def _in_rank(tasks: list[list[Any]]) -> None:
    for name, folder, *rest in tasks:
        {"train": _train, "look": _look}[name](Path(folder), *rest)
    os._exit(0)  # a thread of gloo's that still holds a tensor would abort a Python that is ending


def _train(folder: Path, stop_after: int | None = None) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    run_one(folder, stop=stop)


def _look(folder: Path) -> None:
    """What a run that is sharded and has its experts over ranks does inside."""
    training = RunLoop(folder, RunConfig.load(folder / "config.yaml"), None, None).training
    parallel, model = training.parallel, training.model
    attention, router = (module for name, module in model.named_modules() if name in _LOOKED_AT)
    types = []
    for module in (attention, router):
        module.register_forward_pre_hook(lambda module, _: types.append(next(module.parameters()).dtype))
    training._gradients(training.batches.of(0))
    assert types == [torch.bfloat16, torch.float32] * 2, types  # in both parts
    weights = [next(module.parameters()) for module in (attention, router)]
    assert [hasattr(weight, "device_mesh") for weight in weights] == [True, False]
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in weights)
    training.optimizer.zero_grad()
    training.advance()
    _state_is_gathered_one_by_one(training)
    torch.manual_seed(0)
    for count in (5, 2, 1):
        matrices = torch.randn(count, 6, 4)
        expected = orthogonalize(matrices, torch.bfloat16)
        torch.testing.assert_close(parallel.shared_orthogonal(matrices), expected, rtol=0.02, atol=0.02)


_LOOKED_AT = ("blocks.1.attention", "blocks.1.ffn.router")


def _state_is_gathered_one_by_one(training: Any) -> None:
    """The first rank's host stands apart from the device, here where both are one memory."""
    parallel, model, optimizer = training.parallel, training.model, training.optimizer
    apart = {name for name, part in model.named_parameters() if parallel._is_apart(part)}
    largest = max(part.nbytes for part in model.parameters())  # of a shard it is that of the whole
    moments = [value for state in optimizer.state.values() for value in state.values()]
    with pytest.MonkeyPatch.context() as patch, _NewBytes([*model.state_dict().values(), *moments]) as live:
        patch.setattr(Tensor, "cpu", _copy_on_host)
        weights, state = parallel.state(optimizer)
    assert largest <= live.most < 2.1 * largest, (live.most, largest)  # one, and the pieces it is made of
    assert live.now < largest / 10, live.now
    assert {name for name in apart if name in weights} == (apart if parallel.ranks.is_first else set())
    kept = sum(value.numel() for moment in state["state"].values() for value in moment.values() if value.dim())
    whole = 2 * model.architecture.params_total
    assert kept == whole if parallel.ranks.is_first else kept < whole / 10, kept


def _copy_on_host(tensor: Tensor) -> Tensor:
    with _disable_current_modes():  # the host's memory is not counted
        return tensor.clone()


class _NewBytes(LiveBytes):
    """Of plain tensors, but for those that are there before."""

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()
        self._living |= {_local(part).untyped_storage()._cdata for part in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if type(leaf) is Tensor:
                self._count(leaf.untyped_storage())
        return out


# Those that start them


def _processes(count: int, *tasks: list[Any]) -> None:
    """Do the tasks with as many processes as torchrun would start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, json.dumps(tasks, default=str)]
    started = []
    for rank in range(count):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(outputs)


def _config(recipe: dict[str, Any], **keys: Any) -> dict[str, Any]:
    training = {"batch_tokens": 256, "tokens": _STEPS * 256, "router_z_loss": 1e-3, **recipe}
    return {
        "training": training,
        "architecture": {"router_selection_bias": training.get("balancing") != "auxiliary_loss"},
        **keys,
    }


def _result(folder: Path) -> Result:
    result = read_result(folder)
    assert result is not None and result.losses is not None
    return result


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    return state["model"]


def _assert_equal(one: Path, several: Path) -> None:
    """To rounding: losses and gradient norms of every step, validation, weights."""
    expected, result = _result(one).losses, _result(several).losses
    assert expected is not None and result is not None
    assert result.loss == pytest.approx(expected.loss, abs=5e-5)
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (one, several)]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        for key in ("loss", "gradient_norm", "validation_loss"):
            assert (key in ours) == (key in theirs)
            assert ours.get(key, 0) == pytest.approx(theirs.get(key, 0), rel=1e-4)
    weights = _weights(several)
    for key, value in _weights(one).items():
        assert weights[key].shape == value.shape
        difference = (weights[key] - value).float().norm()
        assert difference <= (2e-3 if value.is_floating_point() else 0.05) * value.float().norm() + 1e-6, key


@pytest.mark.slow
def test_two_processes_equal_one(run_folder: RunFolder) -> None:
    spread, recipe = _SPREAD["sharded, experts over ranks"], _RECIPES["adamw, auxiliary loss, parts"]
    one, two = run_folder("one", **_config(recipe)), run_folder("two", **_config(recipe, parallel=spread))
    inside = run_folder("inside", **_config({"micro_batch_tokens": 64}, parallel=spread, dtype="bfloat16"))
    run_one(one)
    _processes(2, ["train", two], ["look", inside])
    machine = _result(two).machine
    assert machine is not None and machine.processes == 2
    _assert_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("spread", _SPREAD)
def test_four_processes_equal_one(run_folder: RunFolder, spread: str) -> None:
    pairs = []
    for name, recipe in _RECIPES.items():
        one = run_folder(f"one {name}", **_config(recipe))
        four = run_folder(f"four {name}", **_config(recipe, parallel=_SPREAD[spread]))
        pairs.append((one, four))
        run_one(one)
    _processes(4, *(["train", four] for _, four in pairs))
    for one, four in pairs:
        _assert_equal(one, four)


@pytest.mark.slow
def test_sharded_matrices_in_bfloat16_train_as_well(run_folder: RunFolder) -> None:
    one = run_folder("one", **_config({}, dtype="bfloat16"))
    two = run_folder("two", **_config({}, dtype="bfloat16", parallel=_SPREAD["sharded"]))
    run_one(one)
    _processes(2, ["train", two])
    expected, result = _result(one).losses, _result(two).losses
    assert expected is not None and result is not None and result.loss == pytest.approx(expected.loss, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("spread", _SPREAD)
@pytest.mark.parametrize("recipe", ["adamw", "muon, auxiliary loss"])
def test_a_checkpoint_of_four_processes_goes_on_with_two_and_with_one(
    run_folder: RunFolder, spread: str, recipe: str
) -> None:
    one = run_folder("one", **_config(_RECIPES[recipe]))
    run_one(one)
    four = run_folder("four", **_config(_RECIPES[recipe], parallel=_SPREAD[spread]))
    _processes(4, ["train", four, 2])
    two = four.parent / "two"
    shutil.copytree(four, two)
    run_one(four)
    _processes(2, ["train", two, 2])
    assert _result(four).status == "done" and read_result(two) is None
    three = four.parent / "three"
    shutil.copytree(two, three)
    _processes(2, ["train", two])
    run_one(three)
    for folder in (four, two, three):
        _assert_equal(one, folder)


# In this process


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    """A group of one process: all that a group does, but for the others."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_gradients_leave_while_the_backward_pass_goes_on(
    alone: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    inputs = torch.randn(3, 4, 8)
    expected = torch.autograd.grad(layers(inputs.flatten(0, 1)).square().sum(), list(layers.parameters()))
    monkeypatch.setattr(gradient_average, "_BUCKET", 2 * 72)
    average = GradientAverage(layers.parameters(), alone, 0.5)
    there: list[int] = []
    all_reduce = dist.all_reduce

    def noted(flat: Tensor, **how: Any) -> Any:
        there.append(sum(layer.weight.grad is not None for layer in layers))  # type: ignore[union-attr]
        assert how["async_op"] and flat.numel() == 2 * 72
        return all_reduce(flat, **how)

    monkeypatch.setattr(dist, "all_reduce", noted)
    for begun in (True, True, False):
        for number, part in enumerate(inputs):
            if begun and number == 2:
                layers.zero_grad()  # to see which layers' gradients are there when a message leaves
                average.begin()
                layers(inputs.flatten(0, 1)).square().sum().backward()
                assert there == [2, 4, 6]
            else:
                layers(part).square().sum().backward()
                assert not there
        average.finish()
        assert there == ([2, 4, 6] if begun else [6, 6, 6])
        for parameter, gradient in zip(layers.parameters(), expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient / 2)
        layers.zero_grad()
        there.clear()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_restored_lies_where_its_parameter_does(
    tiny_architecture: Callable[..., Architecture], optimizer: str
) -> None:
    """A checkpoint is read into host memory; "meta" stands for a card."""
    recipe = TrainingConfig.model_validate({"tokens": 10**5, "learning_rate": 0.01, "optimizer": optimizer})
    there = torch.device("meta")
    states: list[dict[str, Any]] = []
    for device in (torch.device("cpu"), there):
        model = Model(tiny_architecture()).to(device)
        parallel = Parallel(Ranks(), ParallelConfig(), model, device)
        made = make_optimizer(model, recipe)
        parallel.split_groups(made)
        if states:
            weights, moments = states
            parallel.restore(weights, moments, made)
            found = [value for state in made.state.values() for value in state.values()]
            assert len(found) > 20 and all(value.device == there for value in found)
        else:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            made.step()
            states += parallel.state(made)


if __name__ == "__main__":
    _in_rank(json.loads(sys.argv[1]))
