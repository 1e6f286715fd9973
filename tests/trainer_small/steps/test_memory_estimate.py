"""Memory before a run: the formula against the run's own code on tensors without memory, and both against a process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fits.errors import UserError
from trainer_small.config import ParallelConfig, RunSpec
from trainer_small.machine.live_bytes import LiveBytes
from trainer_small.machine.run_memory import run_memory_bytes
from trainer_small.model.model import Model
from trainer_small.result import read_result
from trainer_small.runs.attempts import read_attempts
from trainer_small.runs.run import run_one
from trainer_small.steps.memory_estimate import fit_micro_batch, largest_micro_batch, memory_estimate, with_micro_batch
from trainer_small.steps.objective import training_loss
from trainer_small.steps.optimizer import make_optimizer

MOE: dict[str, Any] = {"vocab_size": 4096, "hidden_size": 128, "num_layers": 3, "expert_ffn_size": 64}
LATENT = {"attention": "mla", "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}


@pytest.mark.parametrize(
    ("architecture", "training", "keys"),
    [
        (MOE, {}, {}),
        (MOE | {"num_experts": 32}, {"micro_batch_tokens": 1024}, {}),
        (MOE | LATENT, {"batch_tokens": 8192}, {}),
        (MOE | {"num_dense_layers": 3, "dense_ffn_size": 512}, {}, {"dtype": "bfloat16"}),
        (MOE, {}, {"activation_checkpointing": True}),
        (MOE | {"vocab_size": 60000}, {"optimizer": "muon"}, {}),
    ],
)
def test_the_formula_is_near_what_a_step_of_the_run_takes(
    run_spec: Callable[..., RunSpec], architecture: dict[str, Any], training: dict[str, Any], keys: dict[str, Any]
) -> None:
    recipe = {"sequence_length": 128, "batch_tokens": 4096, "tokens": 10**6} | training
    run = run_spec(architecture=architecture, training=recipe, **keys)
    exact = memory_estimate(run)
    assert exact.weights == pytest.approx(4 * run.architecture.params_total, rel=0.01)
    assert run_memory_bytes(run) == pytest.approx(exact.tensors, rel=0.1)


def test_live_bytes_are_of_storages_and_end_with_them() -> None:
    with LiveBytes() as live:
        whole = torch.zeros(1000)
        part = whole[:10]  # of the same storage
        assert live.now == 4000
        del whole
        assert live.now == 4000
        del part
        torch.zeros(10)
    assert live.now == 0 and live.most == 4000


def test_a_run_that_cannot_fit_is_refused_with_the_numbers(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_small.steps.memory_estimate.available_memory_bytes", lambda: 2**19)
    folder = run_folder()
    with pytest.raises(UserError, match=r"needs 0\.4 GiB of memory .* 0\.4 GiB are free on this machine; give it more"):
        run_one(folder)
    result = read_result(folder)
    assert result is not None and result.status == "failed" and "GiB" in (result.reason or "")
    # First it tried with less at a time.
    assert [each.micro_batch_tokens for each in read_attempts(folder)] == [64, 32]


def _on_a_gpu(run_spec: Callable[..., RunSpec], **changes: Any) -> RunSpec:
    recipe = {"sequence_length": 128, "batch_tokens": 4096, "tokens": 10**6} | changes.pop("training", {})
    return run_spec(architecture=MOE | changes.pop("architecture", {}), training=recipe, dtype="bfloat16", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": LATENT, "training": {"optimizer": "muon"}},
        {"training": {"micro_batch_tokens": 1024}, "activation_checkpointing": True},
    ],
)
def test_what_a_gpu_takes_is_what_its_code_takes(run_spec: Callable[..., RunSpec], changes: dict[str, Any]) -> None:
    """The GPU's code with tensors that have memory, here a CPU's."""
    run = _on_a_gpu(run_spec, **changes)
    training = run.training
    with LiveBytes() as live:
        model = Model(run.architecture, dispatch="grouped", compute_dtype=torch.bfloat16)
        model.device_type, model.activation_checkpointing = "cuda", run.activation_checkpointing
        optimizer = make_optimizer(model, training)
        for _ in range(2):
            windows = torch.zeros(training.batch_tokens // 128, 129, dtype=torch.int64)
            for part in windows.split((training.micro_batch_tokens or training.batch_tokens) // 128):
                training_loss(model, part)[1].backward()
            optimizer.step()
            optimizer.zero_grad()
    assert memory_estimate(run, cuda=True).tensors == pytest.approx(live.most, rel=0.02)


def test_the_micro_batch_is_the_largest_that_fits(run_spec: Callable[..., RunSpec]) -> None:
    run = _on_a_gpu(run_spec)
    least = memory_estimate(with_micro_batch(run, 128), cuda=True).total / 0.92
    whole = memory_estimate(run, cuda=True).total / 0.92
    assert largest_micro_batch(run, 1.001 * whole) == 4096
    assert largest_micro_batch(run, 1.001 * whole, ranks=4) == 1024
    assert largest_micro_batch(run, 0.999 * least) is None
    between = largest_micro_batch(run, (least + whole) / 2)
    assert between is not None and 128 <= between < 4096 and 4096 % between == 0
    fits, next_up = (memory_estimate(with_micro_batch(run, size), cuda=True).total for size in (between, 2 * between))
    assert fits <= 0.92 * (least + whole) / 2 < next_up


def test_only_a_gpu_s_run_that_names_no_micro_batch_is_given_one(
    run_spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    run, gpu = _on_a_gpu(run_spec), torch.device("cuda", 0)
    assert fit_micro_batch(run, gpu) == run  # nothing fits: require_memory will say so
    free = int(memory_estimate(with_micro_batch(run, 1024), cuda=True).total / 0.9)
    assert fit_micro_batch(run, torch.device("cpu")) == run
    micro = fit_micro_batch(run, gpu).training.micro_batch_tokens
    assert micro is not None and 1024 <= micro < 4096
    named = with_micro_batch(run, 2048)
    assert fit_micro_batch(named, gpu) == named


def test_ranks_that_share_the_parameters_need_less_each(run_spec: Callable[..., RunSpec]) -> None:
    run = _on_a_gpu(run_spec, architecture={"num_experts": 64})
    spreads: list[dict[str, Any]] = [{}, {"expert_parallel": 4}, {"shard_parameters": True}]
    spreads += [{"shard_parameters": True, "expert_parallel": 4}]
    taken = [
        memory_estimate(run.model_copy(update={"parallel": ParallelConfig(**spread)}), cuda=True, ranks=8)
        for spread in spreads
    ]
    alone = memory_estimate(run, cuda=True)
    assert taken[0] == alone
    assert alone.weights / 4 < taken[1].weights < alone.weights / 2  # most are experts
    assert taken[2].weights == pytest.approx(alone.weights / 8, rel=0.2)
    assert alone.total > taken[1].total > taken[2].total
    assert taken[3].weights > taken[2].weights  # experts go over four ranks alone


def test_more_ranks_than_sequences_leave_one_at_a_time(run_spec: Callable[..., RunSpec]) -> None:
    """That the batch does not divide over them is said where it is read."""
    run = _on_a_gpu(run_spec, training={"batch_tokens": 256})
    assert largest_micro_batch(run, 1e12, ranks=8) == 128
