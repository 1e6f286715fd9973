"""The run's file: what it derives, and one sentence for each mistake."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from fits.errors import UserError
from trainer_small.config import RunSpec, TrainingConfig
from trainer_small.steps.schedule import learning_rate_factor
from trainer_small.sweeps.sweep import run_config

MakeSpec = Callable[..., RunSpec]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"tokens": 0}}, "tokens is 0"),
        ({"training": {"batch_tokens": 100}}, "batch_tokens 100 is not a multiple of sequence_length 32"),
        ({"training": {"micro_batch_tokens": 96}}, "micro_batch_tokens 96 does not divide"),
        ({"training": {"learning_rate": -0.1}}, "learning_rate is -0.1"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": {"warmup_fraction": 0.9}}, "warmup_fraction 0.9 and decay_fraction 0.2"),
        ({"training": {"beta2": 1.0}}, "beta2 is 1.0"),
        ({"training": {"learning_rat": 0.1}}, "did you mean 'learning_rate'"),
        ({"training": {"balancing": "magic"}}, "balancing"),
        ({"architecture": {"experts_per_token": 9}}, "experts_per_token 9 is above num_experts 4"),
        ({"architecture": {"attention_sinks": True}}, "attention_sinks"),
        ({"architecture": {"router_selection_bias": False}}, "router_selection_bias"),
        ({"architecture": {"tied_embeddings": True}}, "tied_embeddings"),
        ({"seed": -1}, "seed is -1"),
        ({"run_id": "../up"}, "run_id"),
        ({"evaluation": {"validation_bytes": 0}}, "validation_bytes is 0"),
    ],
)
def test_mistakes_are_one_sentence(run_spec: MakeSpec, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as fault:
        run_spec(**changes)
    message = str(fault.value)
    assert words in message and "\n" not in message


def test_counts_are_written_as_people_write_them(run_spec: MakeSpec) -> None:
    training = run_spec(training={"tokens": "1e6", "batch_tokens": 2048.0}).training
    assert training.steps == round(1e6 / 2048)
    assert training.tokens_trained == training.steps * 2048


def test_the_digest_is_of_what_decides_the_numbers(run_spec: MakeSpec) -> None:
    digest = run_config(run_spec()).digest()
    assert run_config(run_spec("other", purpose="note", checkpoint_seconds=1)).digest() == digest
    assert run_config(run_spec(seed=1)).digest() != digest
    assert run_config(run_spec(training={"beta1": 0.8})).digest() != digest


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_schedules_warm_up_and_decay_to_the_run_s_own_horizon(schedule: str) -> None:
    training = TrainingConfig.parse(
        {
            "tokens": 2048 * 200,
            "learning_rate": 1,
            "schedule": schedule,
            "warmup_fraction": 0.1,
            "final_learning_rate_fraction": 0.1,
        },
        "training",
    )
    factors = [learning_rate_factor(training, step) for step in range(201)]
    assert factors[0] == pytest.approx(1 / 20) and max(factors) == factors[20] == 1
    assert factors[200] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[20:]))
    if schedule == "wsd":
        assert set(factors[20:161]) == {1.0}
        assert factors[180] == pytest.approx(0.1 + 0.9 * (1 - 0.5**0.5))


def test_planning_loads_no_torch() -> None:
    modules = [
        "architecture",
        "config",
        "data.documents",
        "result",
        "steps.schedule",
        "sweeps.sweep",
        "sweeps.sweep_status",
    ]
    code = f"import sys, {', '.join(f'trainer_small.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
