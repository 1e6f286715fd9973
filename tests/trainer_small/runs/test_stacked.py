"""A stack of models: every one has the losses and gradients it has alone, and its own folder, resume and end."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.result import Result
from trainer_small.runs.checkpoint import load_checkpoint
from trainer_small.runs.run import run_one
from trainer_small.runs.run_loop import RunLoop
from trainer_small.runs.stacked import Stack, run_stack

MakeFolder = Callable[..., Path]

SHAPES: dict[str, dict[str, Any]] = {
    "experts": {},
    "dense, tied, QK-norm": {
        "num_experts": 0,
        "experts_per_token": 0,
        "num_shared_experts": 0,
        "router_selection_bias": False,
        "qk_norm": "per_head",
        "attention_bias": True,
    },
    "MLA, groups, output norm, shared gate": {
        "attention": "mla",
        "q_lora_rank": 12,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "num_expert_groups": 2,
        "expert_groups_per_token": 1,
        "moe_output_norm": True,
        "shared_expert_gate": True,
    },
    "softmax router, QK-norm over the width": {
        "router_score_function": "softmax",
        "router_selection_bias": False,
        "qk_norm": "full_width",
    },
}


def _loop(folder: Path) -> RunLoop:
    return RunLoop(folder, RunConfig.load(folder / "config.yaml"), None, None)


@pytest.mark.parametrize("shape", SHAPES)
def test_models_of_a_stack_have_the_losses_and_gradients_they_have_alone(run_folder: MakeFolder, shape: str) -> None:
    recipe = {"micro_batch_tokens": 64, "balancing": "none"}
    if shape.startswith("softmax"):
        recipe |= {"balancing": "auxiliary_loss", "sequence_balance_loss": 0.1, "router_z_loss": 0.01}
    folders = [
        run_folder(f"{seed}", seed=seed, architecture=SHAPES[shape], training=recipe | {"learning_rate": 0.01 * seed})
        for seed in (1, 2, 3)
    ]
    alone, together = ([_loop(folder).training for folder in folders] for _ in range(2))
    for training in (*alone, *together):
        for parameter in training.model.parameters():
            torch.manual_seed(parameter.numel() + training.config.seed)
            torch.nn.init.normal_(parameter, std=0.2)  # heads that start at 0 would hide all other gradients
    losses = Stack(together).gradients()
    for training, stacked, loss in zip(alone, together, losses, strict=True):
        truth = training._gradients(training.batches.of(0))
        assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
        for (name, ours), theirs in zip(stacked.model.named_parameters(), training.model.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
        for ours, theirs in zip(stacked.model.routers(), training.model.routers(), strict=True):
            assert torch.equal(ours.load, theirs.load)


def test_a_stack_trains_its_runs_as_they_train_alone(run_folder: MakeFolder) -> None:
    horizons = {"a": 20, "b": 30, "c": 30}
    keys = {
        name: {
            "seed": at,
            "training": {"tokens": steps * 128, "learning_rate": 0.004 * (at + 1)},
            "checkpoint_seconds": 1e-6 if name == "b" else 60.0,
        }
        for at, (name, steps) in enumerate(horizons.items())
    }
    alone = [run_one(run_folder(f"{name}-alone", **keys[name])) for name in horizons]
    folders = [run_folder(name, **keys[name]) for name in horizons]
    together = run_stack(folders)
    for one, other in zip(alone, together, strict=True):
        assert one.status == other.status == "done" and one.losses and other.losses and one.step == other.step
        assert other.losses.loss == pytest.approx(one.losses.loss, rel=1e-5)
        assert other.losses.train_loss == pytest.approx(one.losses.train_loss, rel=1e-5)
    # A finished run returns as it is; its checkpoint is of its own parameters alone.
    assert run_stack(folders) == together
    sizes = [next(folder.glob("checkpoint-*30-*.pt")).stat().st_size for folder in folders[1:]]
    apart = next((folders[1].parent / "b-alone").glob("checkpoint-*30-*.pt")).stat().st_size
    assert max(sizes) < 1.1 * apart


def _train_until(folders: list[Path], steps: int) -> None:
    taken = 0

    def stop() -> bool:
        nonlocal taken
        taken += 1
        return taken > len(folders) * steps + 1  # in the middle of a step of the stack

    torch.set_num_threads(1)
    run_stack(folders, stop=stop)


def test_a_stopped_stack_goes_on_to_the_same_bits(run_folder: MakeFolder) -> None:
    def folders(prefix: str) -> list[Path]:
        return [run_folder(f"{prefix}{seed}", seed=seed) for seed in (1, 2)]

    undisturbed = folders("whole")
    run_stack(undisturbed)
    disturbed = folders("cut")
    process = multiprocessing.get_context("spawn").Process(target=_train_until, args=(disturbed, 11))
    process.start()
    process.join()
    # One of the two has taken a step more than the other.
    steps = [load["step"] for folder in disturbed if (load := load_checkpoint(folder, torch.device("cpu")))]
    assert 0 < min(steps) < max(steps) < 30
    results = run_stack(disturbed)
    for whole, cut, result in zip(undisturbed, disturbed, results, strict=True):
        assert result.status == "done"
        states = [load_checkpoint(folder, torch.device("cpu")) for folder in (whole, cut)]
        for name, tensor in states[0]["model"].items():  # type: ignore[index]
            assert torch.equal(tensor, states[1]["model"][name]), name  # type: ignore[index]
        assert Result.load(whole / "result.json").losses == result.losses


def test_runs_that_differ_in_shape_or_fail_are_told_apart(run_folder: MakeFolder) -> None:
    one, other = run_folder("one"), run_folder("other", training={"batch_tokens": 64})
    with pytest.raises(UserError, match=r"other cannot be stacked with .*one: training.batch_tokens differs"):
        run_stack([one, other])
    far = run_folder("far", seed=3, training={"learning_rate": 1e20})
    results = run_stack([one, far])
    assert [result.status for result in results] == ["done", "diverged"]


def test_the_command_trains_folders_as_a_stack(run_folder: MakeFolder) -> None:
    folders = [str(run_folder(name, seed=at)) for at, name in enumerate("ab")]
    command = [sys.executable, "-m", "scaling", "sweep", "run-one", *folders, "--stacked", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Result.load(Path(folder) / "result.json").status == "done" for folder in folders)
