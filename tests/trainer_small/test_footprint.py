"""Memory before a run: the formula against the run's own code on tensors without memory, and both against a process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fits.errors import UserError
from trainer_small.config import RunSpec
from trainer_small.machine.live_bytes import LiveBytes
from trainer_small.machine.run_memory import run_memory_bytes
from trainer_small.result import read_result
from trainer_small.runs.attempts import read_attempts
from trainer_small.runs.run import run_one
from trainer_small.steps.footprint import footprint

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
    exact = footprint(run)
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
    monkeypatch.setattr("trainer_small.steps.footprint.available_memory_bytes", lambda: 2**19)
    folder = run_folder()
    with pytest.raises(UserError, match=r"needs 0\.4 GiB of memory .* 0\.4 GiB are free on this machine; give it more"):
        run_one(folder)
    result = read_result(folder)
    assert result is not None and result.status == "failed" and "GiB" in (result.reason or "")
    # First it tried with less at a time.
    assert [each.micro_batch_tokens for each in read_attempts(folder)] == [64, 32]
