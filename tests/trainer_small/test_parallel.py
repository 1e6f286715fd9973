"""Two processes on one machine compute what one computes: every way to spread a model, and back from checkpoints."""

import json
import os
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


def _train(folder: Path, processes: int = 2) -> Result:
    """The run by as many processes as torchrun would start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", "import sys; from scaling.cli import app; app()", "sweep", "run-one", str(folder)]
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(outputs)
    result = read_result(folder)
    assert result is not None
    return result


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    return state["model"]


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
    expected, result = run_one(one), _train(two)
    assert expected.losses is not None and result.losses is not None
    assert result.machine is not None and result.machine.processes == 2
    assert result.losses.loss == pytest.approx(expected.losses.loss, abs=2e-5)
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (one, two)]
    assert len(lines[0]) == len(lines[1])
    for ours, theirs in zip(*lines, strict=True):
        for key in ("loss", "gradient_norm", "validation_loss"):
            assert (key in ours) == (key in theirs)
            assert ours.get(key, 0) == pytest.approx(theirs.get(key, 0), rel=1e-4)
    weights = _weights(two)
    for key, value in _weights(one).items():
        assert weights[key].shape == value.shape
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=2e-4, msg=key)
