import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.cli import app
from scaling.cluster.faults import faults
from scaling.cluster.hardware import gpu
from scaling.cluster.layout.assumptions import usual_assumptions
from scaling.cluster.layout.bound import least_bytes_per_gpu
from scaling.cluster.layout.candidates import MICRO_BATCHES, RECOMPUTE, VIRTUAL
from scaling.cluster.layout.estimate import describe, estimate_layout
from scaling.cluster.layout.memory import GIB
from scaling.cluster.layout.search import search_layouts
from scaling.cluster.run import run_of
from scaling.plan import Layout, TrainingPlan
from tests.scaling.cluster.layout_cases import MODELS, a_run
from tests.scaling.plans import DEEPSEEK_LIKE, PROXY, training_plan


@pytest.fixture(scope="module")
def axk1():
    """A.X K1's shape in batches of 16M tokens on its cluster."""
    plan = training_plan(
        DEEPSEEK_LIKE, tokens=10**13, sequence_length=4096, batch_tokens=4096 * 4096,
        schedule={"warmup_tokens": 5 * 10**7, "decay_tokens": 2 * 10**12},
    )  # fmt: skip
    return plan, search_layouts(plan, 1024, "h200")


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    training_plan(PROXY, sequence_length=128, batch_tokens=128 * 64).save(path)
    return path


def run_cli(*arguments):
    return CliRunner().invoke(app, ["layout", *map(str, arguments)])


def test_a_small_cluster_is_searched_without_gaps():
    run = a_run(MODELS["Moonlight-16B"], batch=16)
    found = search_layouts(run, 4, "h200")
    keys = [
        "tensor",
        "pipeline",
        "virtual_pipeline",
        "expert",
        "expert_tensor",
        "context",
        "micro_batch_size",
        "recompute",
    ]
    listed = {tuple(row) for row in found.feasible[keys].astype({"virtual_pipeline": int}).itertuples(index=False)}
    degrees = (1, 2, 4)
    expected = set()
    for values in product(degrees, degrees, VIRTUAL, degrees, degrees, degrees, MICRO_BATCHES, RECOMPUTE):
        layout = Layout.model_construct(gpus=4, **dict(zip(keys, values, strict=True)))
        if 4 % (layout.tensor * layout.pipeline * layout.context) or layout.expert_tensor > layout.tensor:
            continue
        if layout.virtual_pipeline > 1 and layout.pipeline == 1:
            continue
        if layout.pipeline * layout.virtual_pipeline > run.model.num_layers:
            continue
        if 4 % (layout.expert * layout.expert_tensor * layout.pipeline):
            continue
        if estimate_layout(run, layout, "h200").feasible:
            expected.add(values)
    assert listed == expected
    assert listed


def test_every_row_says_what_its_layout_takes_alone(axk1):
    _, found = axk1
    for row in np.linspace(0, len(found.feasible) - 1, 40).astype(int):
        candidate, told = found.candidate(row), found.table.iloc[row]
        assert candidate.feasible
        assert candidate.memory.total / GIB == pytest.approx(told["memory_gib"])
        assert candidate.time.total == pytest.approx(told["step_seconds"])
        assert found.days(candidate) == pytest.approx(told["days"])
        assert found.flops_per_gpu(candidate) / 1e12 == pytest.approx(told["tflops_per_gpu"])
        assert sum(told[name] for name in told.index if name.startswith("seconds_")) == pytest.approx(
            told["step_seconds"]
        )


def test_the_fastest_come_first_and_all_fit(axk1):
    _, found = axk1
    feasible = found.feasible
    assert feasible["step_seconds"].is_monotonic_increasing
    assert (feasible["rank"] == np.arange(1, len(feasible) + 1)).all()
    assert (feasible["memory_gib"] <= feasible["usable_gib"]).all()
    assert (feasible["reason"] == "").all()
    others = found.table[found.table["rank"].isna()]
    assert (others["reason"] != "").all()
    assert sum(found.reasons().values()) == len(others)


def test_the_bound_is_below_every_layout_found(axk1):
    plan, found = axk1
    model = plan.model
    least = least_bytes_per_gpu(
        model.params_total, 1024, params_routed=model.params_by_role()["routed_experts"], num_layers=model.num_layers
    )
    states = found.table["states_gib"].dropna()
    assert least / GIB <= states.min()
    assert least / GIB > 0.5 * states.min()  # and it is not far below


def test_axk1s_own_degrees_are_among_the_fastest_and_its_slow_ones_are_not(axk1):
    plan, found = axk1
    plain = usual_assumptions().model_copy(update={"one_copy_per_node": False})
    slow = search_layouts(plan, 1024, "h200", assumptions=plain)
    own, other = _fastest(found, pipeline=16, expert=8), _fastest(slow, pipeline=8, expert=32)
    assert own > 0.85 * found.feasible["tflops_per_gpu"].iloc[0]
    assert own > 1.3 * other


def _fastest(found, *, pipeline, expert):
    table = found.feasible
    return table["tflops_per_gpu"][(table["pipeline"] == pipeline) & (table["expert"] == expert)].iloc[0]


def test_the_layout_goes_into_the_plan_and_passes_the_checks(axk1, tmp_path):
    plan, found = axk1
    path = tmp_path / "plan.yaml"
    found.in_plan(plan, found.best).save(path)
    written = TrainingPlan.load(path)
    assert written.layout == found.best.layout
    assert written.layout_estimate is not None
    assert written.layout_estimate.days == pytest.approx(found.table["days"].iloc[0])
    assert faults(run_of(written)) == []


def test_a_cluster_too_small_says_what_is_short(axk1):
    plan, _ = axk1
    with pytest.raises(UserError) as caught:
        _ = search_layouts(plan, 16, "h200").best
    message = str(caught.value)
    assert "16 h200 cannot hold these 519B parameters" in message
    assert "GiB more than the 120.8 GiB usable" in message
    needed = int(message.split("no fewer than ")[1].split()[0])
    model = plan.model
    routed = model.params_by_role()["routed_experts"]
    least = [
        least_bytes_per_gpu(model.params_total, n, params_routed=routed, num_layers=61) for n in (needed - 1, needed)
    ]
    usable = gpu("h200").memory_bytes * usual_assumptions().usable_memory
    assert least[1] <= usable < least[0]


def test_a_number_of_gpus_that_splits_nothing_says_why(axk1):
    plan, _ = axk1
    with pytest.raises(UserError, match="the batch of sequences 4096 is not divisible by"):
        _ = search_layouts(plan, 1000, "h200").best
    with pytest.raises(UserError, match="--gpus is 0"):
        search_layouts(plan, 0, "h200")


def test_dense_models_have_no_expert_degrees():
    found = search_layouts(a_run(MODELS["Llama-3-8B"], batch=128), 16, "h100")
    assert (found.feasible[["expert", "expert_tensor"]] == 1).all(axis=None)
    assert found.best.memory.fits


def test_one_layout_is_judged_with_its_reason():
    run = a_run(MODELS["Qwen3-30B-A3B"], batch=64)
    refused = estimate_layout(run, Layout(gpus=16, expert=48), "h200")
    assert "not divisible" in refused.reason
    small = estimate_layout(run, Layout(gpus=2, micro_batch_size=8), "h100")
    assert "GiB more than is usable" in small.reason
    assert small.memory is not None
    assert small.time is not None
    stopped = estimate_layout(
        run, Layout(gpus=16, pipeline=4, virtual_pipeline=2, expert=4, micro_batch_size=8), "h200"
    )
    assert "micro-batches of a step 2 is not divisible by layout.pipeline 4" in stopped.reason


def test_describe_leaves_out_degrees_of_one():
    assert describe(Layout(gpus=64, tensor=2, pipeline=4, expert=8)) == "TP2 PP4 EP8 DP8"
    assert describe(Layout(gpus=1)) == "one GPU"


def test_the_command_prints_within_80_columns_and_writes_every_layout(plan_file, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    csv, out = tmp_path / "layouts.csv", tmp_path / "with.yaml"
    result = run_cli(plan_file, "--gpus", 16, "--gpu", "h100", "--csv", csv, "--out", out)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.replace(str(tmp_path), "").splitlines()) <= 80
    assert "by Megatron-LM's own estimate" in result.output
    table = pd.read_csv(csv)
    assert f"of {len(table)} layouts can be used" in result.output
    assert (table["rank"].isna() == table["reason"].notna()).all()
    assert TrainingPlan.load(out).layout is not None


def test_the_command_in_json_tells_both_conventions(plan_file):
    result = run_cli(plan_file, "--gpus", 8, "--top", 3, "--json")
    told = json.loads(result.stdout)
    assert len(told["top"]) == 3
    best = told["best"]
    parts = best["memory_bytes"]
    assert parts["states"] == pytest.approx(parts["weights"] + parts["gradients"] + parts["optimizer"])
    assert best["megatron_state_bytes"] > 0
    assert best["step_seconds"]["total"] == pytest.approx(told["top"][0]["step_seconds"])


def test_all_prints_near_twins(plan_file):
    few = json.loads(run_cli(plan_file, "--gpus", 8, "--top", 1000, "--json").stdout)["top"]
    many = json.loads(run_cli(plan_file, "--gpus", 8, "--top", 100000, "--all", "--json").stdout)
    assert len(few) < len(many["top"]) == many["feasible"]


def test_degrees_can_be_held(axk1, plan_file):
    _, found = axk1
    held = found.only(pipeline=16, expert=8)
    assert held.best.layout.pipeline == 16
    assert held.best.layout.expert == 8
    assert held.best.time.total >= found.best.time.total
    with pytest.raises(UserError, match="no layout of 1024 GPUs has pipeline 17"):
        found.only(pipeline=17)
    told = json.loads(run_cli(plan_file, "--gpus", 8, "--tensor", 2, "--recompute", "full", "--json").stdout)
    assert {(row["tensor"], row["recompute"]) for row in told["top"]} == {(2, "full")}
    with pytest.raises(UserError, match="recompute is 'fully'"):
        found.only(recompute="fully")
    result = run_cli(plan_file, "--gpus", 8, "--tensor", 3)
    assert result.exit_code == 2
    assert "no layout of 8 GPUs has tensor 3" in result.output


def test_hardware_and_assumptions_of_ones_own(plan_file, tmp_path):
    hardware, assumptions = tmp_path / "gpus.yaml", tmp_path / "assumptions.yaml"
    figures = gpu("h200").model_dump() | {"memory_bytes": 3e5, "source": "a wish"}
    hardware.write_text(json.dumps({"schema_version": 1, "gpus": {"Tiny": figures}}))
    result = run_cli(plan_file, "--gpus", 8, "--gpu", "tiny", "--hardware", hardware)
    assert result.exit_code == 2
    assert "8 tiny cannot hold" in result.output
    usual_assumptions().model_copy(update={"usable_memory": 0.5}).save(assumptions)
    told = json.loads(run_cli(plan_file, "--gpus", 8, "--assumptions", assumptions, "--json").stdout)
    assert told["best"]["memory_bytes"]["usable"] == pytest.approx(0.5 * 141e9)
    assumptions.write_text("schema_version: 1\nusable_memroy: 0.5\n")
    result = run_cli(plan_file, "--gpus", 8, "--assumptions", assumptions)
    assert result.exit_code == 2
    assert "unknown key 'usable_memroy' (did you mean 'usable_memory'?)" in result.output


def test_an_unknown_gpu_says_how_to_add_one(plan_file):
    result = run_cli(plan_file, "--gpus", 8, "--gpu", "h201")
    assert result.exit_code == 2
    assert "unknown GPU 'h201' (did you mean 'h200'?)" in result.output
    assert "--hardware" in result.output
