"""Several processes compute what one computes: every way to spread a model, and back from checkpoints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer_small.result import Result, read_result
from trainer_small.runs.checkpoint import load_checkpoint
from trainer_small.runs.run import run_one

RunFolder = Callable[..., Path]

_SPREAD = {
    "data parallel": {},
    "experts over ranks": {"expert_parallel": 2},
    "sharded": {"shard_parameters": True},
    "sharded, experts over ranks": {"shard_parameters": True, "expert_parallel": 2},
}


def _start(command: list[str], processes: int) -> None:
    """As torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [process.communicate(timeout=200)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(outputs)


def _train(folder: Path, processes: int = 2) -> Result:
    """The run by so many processes."""
    program = "import sys; from scaling.cli import app; app()"
    _start([sys.executable, "-c", program, "sweep", "run-one", str(folder)], processes)
    result = read_result(folder)
    assert result is not None
    return result


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    return state["model"]


def _assert_alike(one: Path, several: Path) -> None:
    """Losses, gradient norms and weights, to rounding."""
    expected, result = read_result(one), read_result(several)
    assert expected is not None and expected.losses is not None and result is not None and result.losses is not None
    assert result.losses.loss == pytest.approx(expected.losses.loss, abs=2e-5)
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (one, several)]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        for key in ("loss", "gradient_norm", "validation_loss"):
            assert (key in ours) == (key in theirs)
            assert ours.get(key, 0) == pytest.approx(theirs.get(key, 0), rel=1e-4)
    weights = _weights(several)
    for key, value in _weights(one).items():
        assert weights[key].shape == value.shape
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("experts over ranks", "adamw"),
        *(pytest.param(name, "adamw", marks=pytest.mark.slow) for name in _SPREAD if name != "experts over ranks"),
        pytest.param("sharded, experts over ranks", "muon", marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(run_folder: RunFolder, name: str, optimizer: str) -> None:
    keys: dict[str, Any] = {"training": {"tokens": 6 * 128, "router_z_loss": 1e-3, "optimizer": optimizer}}
    one, two = run_folder("one", **keys), run_folder("two", parallel=_SPREAD[name], **keys)
    run_one(one)
    result = _train(two)
    assert result.machine is not None and result.machine.processes == 2
    _assert_alike(one, two)


@pytest.mark.slow
def test_sharded_matrices_travel_and_multiply_in_bfloat16(run_folder: RunFolder) -> None:
    keys: dict[str, Any] = {"dtype": "bfloat16", "training": {"tokens": 6 * 128}}
    one, two = run_folder("one", **keys), run_folder("two", parallel=_SPREAD["sharded"], **keys)
    expected, result = run_one(one), _train(two)
    assert expected.losses is not None and result.losses is not None
    assert result.losses.loss == pytest.approx(expected.losses.loss, abs=0.01)
    weights = _weights(two)
    for key, value in _weights(one).items():
        assert weights[key].dtype == value.dtype == (torch.int64 if key.endswith("load") else torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", _SPREAD)
@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "muon"},
        {"balancing": "auxiliary_loss", "balancing_rate": 0.1, "sequence_balance_loss": 0.1, "micro_batch_tokens": 32},
    ],
    ids=["muon", "auxiliary loss, in parts"],
)
def test_four_processes_equal_one_and_their_checkpoint_goes_on_with_fewer(
    run_folder: RunFolder, name: str, recipe: dict[str, Any]
) -> None:
    keys: dict[str, Any] = {"training": {"tokens": 6 * 256, "batch_tokens": 256, **recipe}, "saved_at": [3 * 256]}
    one, four = run_folder("one", **keys), run_folder("four", parallel=_SPREAD[name], **keys)
    run_one(one)
    result = _train(four, processes=4)
    assert result.machine is not None and result.machine.processes == 4
    _assert_alike(one, four)
    for processes in (2, 1) if "expert_parallel" not in _SPREAD[name] else (2,):
        fewer = four.with_name(f"on_{processes}")
        fewer.mkdir()
        for file in (four / "config.yaml", four / "metrics.jsonl", *four.glob("kept-*.pt")):
            shutil.copy(file, fewer)
        _train(fewer, processes)
        _assert_alike(one, fewer)


_RANKS_PROGRAM = """
import os, sys, torch
import torch.distributed as dist
from trainer_small.config import ParallelConfig
from trainer_small.machine.ranks import join_ranks
from trainer_small.architecture import Architecture
from trainer_small.model.model import Model
from trainer_small.steps.gradient_average import GradientAverage
from trainer_small.steps.muon import orthogonalize
from trainer_small.steps.optimizer import make_optimizer
from trainer_small.steps.parallel import Parallel
from trainer_small.steps.parametrization import initialize
from trainer_small.training_config import TrainingConfig
torch.set_num_threads(1)
ranks = join_ranks()
"""


def _on_ranks(program: str, processes: int = 2) -> None:
    """``program`` in as many processes; it fails by an assertion of its own."""
    _start([sys.executable, "-c", _RANKS_PROGRAM + program], processes)


@pytest.mark.slow
def test_a_checkpoint_is_whole_on_the_first_rank_alone_and_in_the_order_of_one_process(
    tiny_architecture: Callable[..., Any],
) -> None:
    architecture = tiny_architecture().model_dump(mode="json")
    _on_ranks(
        f"""
training = TrainingConfig(tokens=10**5, learning_rate=0.01)
def made(parallel, ranks):
    model = Model(Architecture.parse({architecture!r}, "a"))
    initialize(model, training, 0)
    spread = Parallel(ranks, ParallelConfig(**parallel), model)
    optimizer = make_optimizer(model, training)
    spread.split_groups(optimizer)
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()
    state = model.state_dict(), optimizer.state_dict()
    spread.gather(*state, optimizer)
    return state
from trainer_small.machine.ranks import Ranks
alone_model, alone = made({{}}, Ranks())
model, optimizer = made({{"shard_parameters": True, "expert_parallel": 2}}, ranks)
whole = [key for key, value in alone_model.items() if value.dim() > 1 and ".router." not in key]
if ranks.is_first:
    for key, value in alone_model.items():
        torch.testing.assert_close(model[key], value, msg=key)
    assert optimizer["state"].keys() == alone["state"].keys()
    for at, entry in alone["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(optimizer["state"][at][key], value, msg=f"{{at}} {{key}}")
    assert [group["params"] for group in optimizer["param_groups"]] == [g["params"] for g in alone["param_groups"]]
else:
    assert whole and not any(key in model for key in whole)
    held = sum(value.numel() for entry in optimizer["state"].values() for value in entry.values())
    assert held < sum(value.numel() for value in alone_model.values()) / 4
"""
    )


@pytest.mark.slow
def test_gradients_travel_while_the_backward_pass_goes_on() -> None:
    _on_ranks(
        """
import trainer_small.steps.gradient_average as module
module._BUCKET = 8
layers = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(6))
average = GradientAverage(list(layers.parameters()), dist.group.WORLD, 1 / ranks.size)
sent = []
def backward(scale):
    x = torch.ones(2, 4)
    for at, layer in enumerate(layers):
        x = layer(x)
        x.register_hook(lambda grad, at=at: sent.append((at, average.sent)) and None)
    (x.sum() * scale).backward()
for layer in layers:
    torch.nn.init.eye_(layer.weight)
backward(1.0 + ranks.rank)  # a part that is not the last: nothing travels
assert not any(count for _, count in sent), sent
sent.clear()
average.begin()
backward(1.0 + ranks.rank)
assert dict(sent)[0] >= 4, sent  # at the first layer those of the later ones are on their way
average.finish()
for layer in layers:
    torch.testing.assert_close(layer.weight.grad, torch.full((4, 4), 2 * 2 * 1.5))
average.finish()  # gradients that others have made, as in a stack
"""
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 8])
def test_ranks_share_what_is_made_orthogonal(count: int, tiny_architecture: Callable[..., Any]) -> None:
    architecture = tiny_architecture().model_dump(mode="json")
    _on_ranks(
        f"""
spread = Parallel(ranks, ParallelConfig(), Model(Architecture.parse({architecture!r}, "a")))
matrices = torch.randn({count}, 6, 10, generator=torch.Generator().manual_seed(0))
torch.testing.assert_close(spread.shared_orthogonal(matrices), orthogonalize(matrices, torch.float32))
"""
    )
