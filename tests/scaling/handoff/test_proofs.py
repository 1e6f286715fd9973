"""The stacks' own classes build what was exported: parameters to the last one, the learning rate to 1e-9."""

from pathlib import Path
from typing import Any

import pytest

from scaling.cluster.run import Run, run_of
from scaling.handoff.check import check_configs
from scaling.handoff.comparison import Proof
from scaling.handoff.export import export_plan
from scaling.handoff.megatron import build as megatron_core
from scaling.handoff.megatron import write as megatron
from scaling.handoff.megatron.read import read_megatron
from scaling.handoff.olmo_core import build as olmo_core_build
from scaling.handoff.olmo_core import write as olmo_core
from scaling.handoff.olmo_core.read import read_olmo_core
from scaling.handoff.torchtitan import build as torchtitan_build
from scaling.handoff.torchtitan.read import read_torchtitan
from scaling.installation.extras import NotInstalled
from tests.scaling.plans import DEEPSEEK_LIKE, PROXY, training_plan

LAYOUT = {"gpus": 8, "tensor": 2, "expert": 4, "micro_batch_size": 2}
BIG_LAYOUT = {"gpus": 1024, "pipeline": 16, "expert": 8, "micro_batch_size": 1}
SCHEDULE = {"warmup_tokens": 50_000, "decay_tokens": 200_000}
AXK1 = {**DEEPSEEK_LIKE, "moe_output_norm": True}  # arXiv 2601.09200
OLMOE = {**PROXY, "router_scaling_factor": 1.0}


def assert_proven(proof: Proof, run: Run, rate_at: Any) -> None:
    """The stack's own classes count what the plan says, and its own scheduler draws the plan's curve."""
    assert proof.parameters == run.model.params_total
    assert proof.active_parameters in (None, run.model.params_active)
    assert len(proof.rates) > 45 and {0, run.warmup_steps, run.steps - 1} <= set(proof.rates)
    for step, rate in proof.rates.items():
        assert abs(rate - rate_at(run, step)) <= 1e-9 * run.learning_rate, step
    assert max(proof.rates.values()) == pytest.approx(run.learning_rate)
    assert len(set(proof.rates.values())) > 25


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), [(PROXY, LAYOUT), (DEEPSEEK_LIKE, BIG_LAYOUT)])
@pytest.mark.parametrize("kind", ["wsd", "cosine"])
def test_torchtitan_builds_the_package_and_draws_the_curve(
    model: dict, layout: dict, kind: str, tmp_path: Path
) -> None:
    plan = training_plan(model, layout=layout, schedule={**SCHEDULE, "kind": kind})
    export_plan(plan, ["torchtitan"], tmp_path)
    path = tmp_path / "training_plan" / "config_registry.py"
    run = read_torchtitan(path, gpus=layout["gpus"])
    try:
        proof = torchtitan_build.prove(path, run)
    except NotInstalled as missing:
        pytest.skip(str(missing))
    assert_proven(proof, run_of(plan), torchtitan_build.rate_at)


@pytest.mark.parametrize(
    ("model", "layout", "schedule"),
    [
        pytest.param(
            PROXY,
            {**LAYOUT, "pipeline": 2, "gpus": 16, "recompute": "selective"},
            {"kind": "cosine"},
            marks=pytest.mark.slow,
        ),
        (DEEPSEEK_LIKE, {**BIG_LAYOUT, "pipeline": 8, "virtual_pipeline": 2, "recompute": "full"}, {"kind": "wsd"}),
    ],
)
@pytest.mark.slow
def test_megatron_core_builds_the_flags_and_draws_the_curve(
    model: dict, layout: dict, schedule: dict, tmp_path: Path
) -> None:
    lengths = {"warmup_tokens": 2_000_000, "decay_tokens": 5_000_000}
    plan = training_plan(model, layout=layout, schedule=lengths | schedule, tokens=30_000_000, batch_tokens=128 * 1024)
    export_plan(plan, ["megatron"], tmp_path)
    try:
        proof = megatron_core.prove(read_megatron(tmp_path / megatron.FILE))
    except NotInstalled as missing:
        pytest.skip(str(missing))
    assert_proven(proof, run_of(plan), megatron_core.rate_at)


@pytest.mark.parametrize(
    "schedule", [{"decay_shape": "linear"}, pytest.param({"kind": "cosine"}, marks=pytest.mark.slow)]
)
def test_olmo_core_builds_the_dictionaries_and_draws_the_curve(schedule: dict, tmp_path: Path) -> None:
    plan = training_plan(OLMOE, layout={"gpus": 16, "pipeline": 2, "expert": 4}, schedule=SCHEDULE | schedule)
    export_plan(plan, ["olmo-core"], tmp_path)
    path = tmp_path / olmo_core.FILE
    try:
        proof = olmo_core_build.prove(path, read_olmo_core(path, gpus=16))
    except NotInstalled as missing:
        pytest.skip(str(missing))
    assert_proven(proof, run_of(plan), olmo_core_build.rate_at)


@pytest.mark.parametrize("stack", ["hf", pytest.param("megatron-bridge", marks=pytest.mark.slow), "olmo-core"])
def test_check_asks_the_stacks_that_are_here(stack: str, tmp_path: Path) -> None:
    model, total = (AXK1, "518,983,052,288") if stack == "hf" else (OLMOE, "10,374,208")
    export_plan(training_plan(model), [stack], tmp_path)
    report = check_configs(tmp_path, [stack])
    assert report.ok, report.faults
    proven = [item for item in report.checks if " by " in item.name]
    if any(item.status == "skipped" for item in proven):
        pytest.skip(" ".join(item.detail for item in proven))
    assert total in {item.detail for item in proven}


def test_what_only_the_stack_can_see_is_a_fault(tmp_path: Path) -> None:
    pytest.importorskip("olmo_core", reason="pip install 'moe-scaling[olmo-core]'")
    export_plan(training_plan(OLMOE), ["olmo-core"], tmp_path)
    path = tmp_path / olmo_core.FILE
    path.write_text(path.read_text().replace("lb_loss_weight: null", "latent_moe: {latent_dim: 8}"))
    (tmp_path / "plan.yaml").unlink()
    report = check_configs(path)
    assert "OLMo-core builds" in " ".join(fault.detail for fault in report.faults)
