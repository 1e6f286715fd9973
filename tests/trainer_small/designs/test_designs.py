"""Designs: within the budget always, named ones that load, trunks that save, runs chosen for a decision."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fits
from fits.decisions.isoflop import slices
from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.designs.blocks import Design, design_names, find_design
from trainer_small.designs.design import design_sweep
from trainer_small.designs.next import next_sweep
from trainer_small.ladder import Experts, Family
from trainer_small.sweeps.gpu_step import step_time
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import planned_row
from trainer_small.sweeps.sweep_time import Speed, device_speed, makespan
from vocab_study.study.sweep_design import design_vocabulary_sweep

TOKENIZERS = {512: "a.json", 1024: "b.json", 2048: "c.json"}


def _sweep(design: str | Design = "hoffmann", budget: float = 1e14, **keys: object) -> Sweep:
    return design_sweep(corpus="corpus", tokenizers=TOKENIZERS, budget_flops=budget, design=design, **keys)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from([name for name in design_names() if name != "efficiency-leverage"]),
    budget=st.floats(13, 18).map(lambda power: 10**power),
    batch=st.sampled_from([256, 1024, 4096]),
    decay=st.floats(0.05, 0.5),
)
def test_no_design_is_above_its_budget(name: str, budget: float, batch: int, decay: float) -> None:
    recipe = {"training": {"learning_rate": 0.01, "batch_tokens": batch, "decay_fraction": decay}}
    try:
        sweep = _sweep(name, budget, recipe=recipe)
    except UserError as error:
        least = float(str(error).split("give at least ")[1].split()[0])
        assert least > budget
        _sweep(name, 1.01 * least, recipe=recipe)
        return
    spent = sweep.cost().train_flops_spent
    assert 0.9 * budget < spent <= budget
    assert spent == sum(run.train_flops_spent for run in sweep.runs)
    Sweep.parse(sweep.model_dump(mode="json"), "sweep.yaml")  # also checks trunks and names


@pytest.mark.parametrize("name", design_names())
def test_named_designs_say_where_they_come_from_and_what_they_identify(name: str) -> None:
    design = find_design(name)
    assert design.source and design.purpose and fits.get_law(design.fits)
    sweep = _sweep(design, 1e18)
    assert any("noise" in run.purpose for run in sweep.runs)
    seeds = {run.seed for run in sweep.runs}
    assert len(seeds) >= 3


def test_a_trunk_saves_where_its_branches_leave_and_five_horizons_cost_little() -> None:
    sweep = _sweep("hoffmann")
    runs = {run.run_id: run for run in sweep.runs}
    branches = [run for run in sweep.runs if run.trunk]
    assert len(branches) == 5 * 4
    for run in branches:
        assert run.trunk is not None
        trunk = runs[run.trunk.run_id]
        assert run.trunk.tokens in trunk.saved_at and trunk.training.warmup_steps == run.training.warmup_steps
        assert run.first_step == run.training.decay_start
    of_one_size = [run for run in sweep.runs if run.architecture.hidden_size == 96]
    spent, whole = (sum(getattr(run, key) for run in of_one_size) for key in ("train_flops_spent", "train_flops"))
    assert len(of_one_size) == 5 and spent < 0.6 * whole
    cosine = {"training": {"batch_tokens": 256, "schedule": "cosine"}}
    assert not [run for run in _sweep("hoffmann", recipe=cosine).runs if run.trunk]


def test_isoflop_slices_have_equal_compute() -> None:
    sweep = _sweep("isoflop", 1e15)
    for slice_ in ("slice 1", "slice 4"):
        flops = [run.train_flops for run in sweep.runs if run.purpose == slice_]
        assert len(flops) == 5 and max(flops) / min(flops) < 1.02


@pytest.mark.parametrize("budget", [2.3e13, 3e13, 1e15])
def test_slices_of_whole_steps_are_told_apart(budget: float) -> None:
    """At the least budget the shortest runs have 20 steps, and whole steps spread a slice by per cents."""
    runs = _sweep("isoflop", budget).runs
    found = slices(np.array([run.train_flops for run in runs]))
    by_purpose = {"slice 1": 0, "slice 2": 1, "noise": 1, "slice 3": 2, "slice 4": 3}
    assert list(found) == [by_purpose[run.purpose] for run in runs]


def test_efficiency_leverage_holds_tian_s_experts() -> None:
    sweep = _sweep("efficiency-leverage", 1e18)
    assert {run.architecture.num_experts for run in sweep.runs} >= {0, 4, 256, 512}
    shared = [run.architecture for run in sweep.runs if run.purpose == "shared experts"]
    assert {each.experts_per_token + each.num_shared_experts for each in shared} == {12}
    fine = [run.architecture for run in sweep.runs if run.purpose == "granularity"]
    assert {each.granularity for each in fine} == {4, 6, 8, 12, 16}
    dense = next(run.architecture for run in sweep.runs if run.purpose == "dense")
    assert dense.dense_ffn_size == 3 * dense.hidden_size and dense.activation_ratio == 1
    with pytest.raises(UserError, match="granularity"):
        _sweep("efficiency-leverage", 1e18, hidden_sizes=(64, 128))


def test_a_dense_model_is_the_case_without_experts() -> None:
    experts = Experts(num_experts=0, experts_per_token=0, num_shared_experts=0, granularity=0.5)
    shape = Family().shape(64, 2, experts, 512)
    assert not shape.is_moe and shape.granularity == 0.5 and experts.activation_ratio == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_sizes": [64, 32]}, "must rise"),
        ({"blocks": []}, "blocks"),
        ({"blocks": [{"purpose": "p"}]}, "either horizons or budgets"),
        ({"blocks": [{"purpose": "p", "horizons": [1], "rungs": [9]}]}, "rung 9"),
        ({"blocks": [{"purpose": "p", "budgets": [1], "trunk": True}]}, "trunk"),
        ({"blocks": [{"purpose": "p", "horizons": [0]}]}, "horizons"),
        ({"fit": "x"}, "did you mean 'fits'"),
    ],
)
def test_faulty_designs_are_one_sentence(change: dict[str, object], words: str, tmp_path: Path) -> None:
    data = find_design("hoffmann").model_dump(mode="json") | change
    with pytest.raises(UserError, match=words) as error:
        Design.parse(data, tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="did you mean 'hoffmann'"):
        find_design("hofmann")


_RECIPE = """
training: {optimizer: muon, sequence_length: 256, batch_tokens: 8192, micro_batch_tokens: 8192, balancing_rate: 1e-3}
evaluation: {validation_bytes: 65536, earlier_points: 2}
dtype: bfloat16
compile: true
log_to: [tensorboard]
"""


@pytest.mark.parametrize("name", ["hoffmann", "lr-batch", "vocabulary"])
def test_a_recipe_file_is_what_all_runs_share(name: str, tmp_path: Path) -> None:
    (file := tmp_path / "recipe.yaml").write_text(_RECIPE, encoding="utf-8")
    if name == "vocabulary":
        sweep = design_vocabulary_sweep(corpus="corpus", tokenizers=TOKENIZERS, budget_flops=1e15, recipe=file)
    else:
        sweep = _sweep(name, 1e16, recipe=file)
    assert sweep.cost().train_flops_spent <= 1e16
    for run in sweep.runs:
        assert (run.dtype, run.compile, run.log_to) == ("bfloat16", True, ("tensorboard",))
        assert run.training.optimizer == "muon" and run.training.sequence_length == 256
        assert run.training.muon_learning_rate / 0.03 == pytest.approx(run.training.learning_rate / 2**-7)
        assert run.training.balancing_rate == 1e-3
        assert run.training.micro_batch_tokens == min(run.training.batch_tokens, 8192)
        assert run.evaluation.validation_bytes == 65536 and run.evaluation.earlier_points == 2
    Sweep.parse(sweep.model_dump(mode="json"), "sweep.yaml")


def test_a_recipe_leaves_what_it_does_not_name() -> None:
    recipe = {"evaluation": {"earlier_points": 2}}
    (run, *_) = design_vocabulary_sweep(corpus="c", tokenizers=TOKENIZERS, budget_flops=1e15, recipe=recipe).runs
    assert (run.evaluation.earlier_points, run.evaluation.validation_bytes) == (2, 2**20)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"training": {"optimiser": "muon"}}, "'training.optimiser' .did you mean 'optimizer'"),
        ({"training": "muon"}, "'training' is 'muon'"),
        ({"training": {"tokens": 10**9}}, "sets training.tokens"),
        ({"seed": 3}, "'seed' is each run's own"),
        ({"dtype": "float16"}, "'dtype' is 'float16'"),
        ({"training": {"sequence_length": 2048}}, "batch_tokens 1024 is not a multiple of sequence_length 2048"),
        ({"training": {"batch_ramp": [{"until_tokens": 10**9, "batch_tokens": 512}]}}, "run d"),
    ],
)
def test_a_faulty_recipe_is_one_sentence(recipe: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        _sweep("hoffmann", 1e13, recipe=recipe)
    assert "\n" not in str(error.value)


def _known(seed: int = 0) -> pd.DataFrame:
    """Runs of a small sweep with losses of a known law and 0.5 % of noise."""
    frame = pd.DataFrame([planned_row(run) for run in _sweep("hoffmann", 1e13).runs])
    truth = {"E": 1.7, "A": 30.0, "B": 300.0, "alpha": 0.3, "beta": 0.35}
    loss = fits.get_law("hoffmann").evaluate(truth, {"N": frame["params_active"], "D": frame["tokens"]})
    noise = np.random.default_rng(seed).normal(0, 0.005, len(frame))
    return frame.assign(loss=np.asarray(loss) * np.exp(noise), status="done")


def test_runs_are_chosen_for_the_decision_within_the_budget() -> None:
    known = _known()
    kwargs = {"corpus": "corpus", "tokenizers": TOKENIZERS, "design": "hoffmann", "bootstrap": 100}
    chosen = next_sweep(known, budget_flops=1e15, **kwargs)  # type: ignore[arg-type]
    assert set(chosen.decision) == {"C"} and chosen.error_then < chosen.error_now
    assert 0 < chosen.sweep.cost().train_flops_spent <= 1e15
    far = next_sweep(known, budget_flops=1e15, at={"N": 1e9, "D": 2e10}, **kwargs)  # type: ignore[arg-type]
    assert far.error_then < far.error_now

    # A decision about the data term buys longer runs than one about the size term.
    def tokens_per_parameter(sweep: Sweep) -> float:
        return float(np.median([run.training.tokens / run.architecture.params_active for run in sweep.runs]))

    long = next_sweep(known, budget_flops=1e15, at={"N": 1e12, "D": 1e9}, **kwargs)  # type: ignore[arg-type]
    wide = next_sweep(known, budget_flops=1e15, at={"N": 1e6, "D": 1e14}, **kwargs)  # type: ignore[arg-type]
    assert tokens_per_parameter(long.sweep) != tokens_per_parameter(wide.sweep)
    with pytest.raises(UserError, match="buys no run"):
        next_sweep(known, budget_flops=1e6, **kwargs)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(times=st.lists(st.floats(0.1, 100), min_size=1, max_size=27), workers=st.integers(1, 8))
def test_wall_time_lies_between_its_bounds(times: list[float], workers: int) -> None:
    runs = _sweep("moe-bits").runs
    runs = tuple(run for run, _ in zip(runs, times, strict=False))
    times = times[: len(runs)]
    wall = makespan(runs, times, workers)
    assert max(times) - 1e-9 <= wall and sum(times) / workers - 1e-9 <= wall
    assert wall <= sum(times) / workers + max(times) + 1e-9


def test_a_branch_is_not_timed_before_its_trunk() -> None:
    runs = _sweep("hoffmann").runs
    trunk = next(run for run in runs if run.saved_at)
    branch = max(
        (run for run in runs if run.trunk and run.trunk.run_id == trunk.run_id), key=lambda run: run.first_step
    )
    wall = makespan([branch, trunk], [10.0, 100.0], 2)
    assert wall == pytest.approx(max(100.0, 100 * branch.first_step / trunk.training.steps + 10))
    assert makespan([branch, trunk], [10.0, 100.0], 1) == pytest.approx(110)


def test_device_time_follows_peak_and_utilisation(run_spec: object) -> None:
    del run_spec
    run = _sweep("moe-bits").runs[0]
    assert isinstance(run, RunSpec) and isinstance(run.architecture, Architecture)
    speed = device_speed("h200", 1e15, 0.5)
    assert isinstance(speed, Speed) and speed.seconds(run) == pytest.approx(run.train_flops / 5e14)


_CARD = {"peak_flops": 1e15, "memory_bandwidth": 5e12}


def _on_card(architecture: dict[str, Any], training: dict[str, Any] | None = None, **keys: Any) -> RunSpec:
    recipe = {"tokens": 10**9, "sequence_length": 512, "batch_tokens": 2**19, "micro_batch_tokens": 2**15}
    shape = {
        "vocab_size": 8192,
        "num_layers": 4,
        "num_attention_heads": 4,
        "dense_ffn_size": 256,
        "num_dense_layers": 1,
    }
    shape |= {"num_experts": 32, "experts_per_token": 4, "router_selection_bias": True, "expert_ffn_size": 64}
    data = {"run_id": "run", "architecture": shape | architecture, "training": recipe | {"learning_rate": 1e-3}}
    data["training"] |= training or {}
    return RunSpec.parse(data | keys, "run")


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([64, 256, 1024, 4096]),
    experts=st.sampled_from([4, 32, 256]),
    parts=st.sampled_from([1, 4, 64]),
    optimizer=st.sampled_from(["adamw", "muon"]),
    compiled=st.booleans(),
    again=st.booleans(),
)
def test_a_step_takes_at_least_what_each_bound_does(
    width: int, experts: int, parts: int, optimizer: str, compiled: bool, again: bool
) -> None:
    shape = {"hidden_size": width, "num_experts": experts, "expert_ffn_size": width // 4}
    recipe = {"micro_batch_tokens": 2**19 // parts, "optimizer": optimizer}
    run = _on_card(shape, recipe, compile=compiled, activation_checkpointing=again)
    step = step_time(run, **_CARD)
    flops = run.training.batch_tokens * run.architecture.flops_per_token(run.training.sequence_length)
    assert step.seconds > flops / 1e15  # the peak
    assert step.seconds > parts * 6 * run.architecture.params_total / 5e12  # weights are read in every part
    assert step.launches < step.seconds * 1.001 or step.bound == "launches"
    assert step_time(run, 1e15, 1e13).seconds <= step.seconds >= step_time(run, 2e15, 5e12).seconds
    finer = run.model_copy(update={"training": run.training.model_copy(update={"micro_batch_tokens": 2**12})})
    assert step_time(finer, **_CARD).seconds >= step.seconds * 0.999
    eager = step_time(run.model_copy(update={"compile": False}), **_CARD)
    assert eager.seconds >= step.seconds


def test_small_runs_are_bound_by_launches_and_large_ones_by_the_card() -> None:
    small = _on_card({"hidden_size": 64}, {"batch_tokens": 8192, "micro_batch_tokens": None})
    large = _on_card({"hidden_size": 4096, "expert_ffn_size": 1024, "num_layers": 24}, compile=True)
    assert step_time(small, **_CARD).bound == "launches" and step_time(large, **_CARD).bound == "products"
    shares = []
    for run in (small, large):
        flops = run.training.batch_tokens * run.architecture.flops_per_token(run.training.sequence_length)
        shares.append(flops / step_time(run, **_CARD).seconds / 1e15)
    assert shares[0] < 0.01 and 0.2 < shares[1] < 0.5
    speed = device_speed("card", 1e15, memory_bandwidth=5e12)
    assert speed.bound is not None and speed.bound(small) == "launches"
