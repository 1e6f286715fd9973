import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.cluster.hardware import gpu
from scaling.cluster.layout.assumptions import Speeds, usual_assumptions
from scaling.cluster.layout.communication import all_to_all_seconds
from scaling.cluster.layout.estimate import taken
from scaling.cluster.layout.products import head_product, products_of_layer
from scaling.plan import Layout
from tests.scaling.cluster.layout_cases import MODELS, PUBLISHED, a_run, speeds

names = st.sampled_from(sorted(MODELS))
H200 = gpu("h200")


def time(model, layout, *, batch=1024, precision="bf16", device=H200, **changes):
    """One layout's step time, with some assumptions changed."""
    assumptions = usual_assumptions().model_copy(update=changes)
    return taken(a_run(model, batch=batch, precision=precision), layout, device, assumptions)[1]


@given(names, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.sampled_from([1, 2, 8]), st.sampled_from([1, 2]))
def test_the_products_of_all_gpus_are_the_models_exact_flops(name, tensor, context, expert, expert_tensor):
    model = MODELS[name]
    expert, expert_tensor = (expert, expert_tensor) if model.is_moe else (1, 1)
    layout = Layout(gpus=64, tensor=tensor, context=context, expert=expert, expert_tensor=expert_tensor)
    flops = head_product(model, layout, 4096).flops
    for moe, layers in ((False, model.num_layers - model.num_moe_layers), (True, model.num_moe_layers)):
        if layers:
            flops += layers * sum(each.flops for each in products_of_layer(model, layout, 4096, moe=moe))
    assert flops * tensor * context == pytest.approx(4096 * model.forward_matmul_flops_per_token)


@given(names, st.sampled_from([1, 2]), st.sampled_from([1, 4]), st.sampled_from(["none", "selective", "full"]))
def test_no_part_is_negative_and_mfu_is_below_what_products_reach(name, tensor, pipeline, recompute):
    model = MODELS[name]
    layout = Layout(gpus=64, tensor=tensor, pipeline=pipeline, recompute=recompute)
    spent = time(model, layout)
    assert all(np.min(part) >= 0 for part in vars(spent).values())
    flops = model.flops_per_token(4096) * 4096 * 1024 / spent.total.item() / 64
    assert flops < H200.peak_flops * usual_assumptions().matmul_efficiency


def test_the_bubble_is_that_of_1f1b():
    # arXiv 2104.04473, section 2.2: (p - 1) / (m v) of the time without it, when stages are alike.
    model = MODELS["Llama-3-8B"].model_copy(update={"vocab_size": 8})
    free = {"inter_node_efficiency": 1.0, "pipeline_hidden": 1.0, "collective_latency_seconds": 0.0}
    for virtual in (1, 2, 4):
        spent = time(model, Layout(gpus=8, pipeline=8, virtual_pipeline=virtual), batch=64, **free)
        busy = spent.total - spent.bubble - spent.data_parallel - spent.optimizer - spent.pipeline_transfer
        assert spent.bubble / busy == pytest.approx(7 / (64 * virtual), rel=2e-3)  # the head is not quite free


@given(names, st.sampled_from(["none", "selective", "full"]))
def test_recomputing_takes_time(name, recompute):
    model = MODELS[name]
    plain = time(model, Layout(gpus=64)).total
    assert (time(model, Layout(gpus=64, recompute=recompute)).total >= plain).all()
    assert (time(model, Layout(gpus=64, recompute="full")).total < 1.5 * plain).all()


@given(names, st.sampled_from(["peak_flops", "memory_bandwidth", "intra_node_bandwidth", "inter_node_bandwidth"]))
def test_faster_hardware_is_never_slower(name, figure):
    model = MODELS[name]
    layout = Layout(gpus=64, tensor=2, pipeline=2, expert=16 if model.num_experts % 16 == 0 else 1)
    faster = H200.model_copy(update={figure: 2 * getattr(H200, figure)})
    assert (time(model, layout, device=faster).total <= time(model, layout).total * (1 + 1e-9)).all()


def test_fp8_speeds_up_products_only():
    model, layout = MODELS["DeepSeek-V3"], Layout(gpus=1024, pipeline=16, expert=8)
    plain, fp8 = (time(model, layout, precision=precision) for precision in ("bf16", "fp8"))
    assert fp8.matmuls < plain.matmuls
    assert fp8.experts < plain.experts
    assert fp8.attention == plain.attention
    assert fp8.all_to_all == plain.all_to_all


def test_experts_within_a_node_stay_off_the_network():
    model = MODELS["Qwen3-30B-A3B"]
    assumptions = usual_assumptions()
    seconds = {
        expert: float(
            all_to_all_seconds(
                model, Layout(gpus=64, expert=expert), 4096.0, Speeds(H200, assumptions, "bf16"), assumptions
            )
        )
        for expert in (1, 8, 16, 64)
    }
    assert seconds[1] == 0
    inside = 2 * 4096 * 2048 * 2 * 8 * 7 / 8 / (H200.intra_node_bandwidth * assumptions.intra_node_efficiency)
    assert seconds[8] == pytest.approx(inside)
    assert seconds[8] < seconds[16] < seconds[64]


def test_one_copy_a_node_sends_less_than_one_an_expert():
    model, layout = MODELS["DeepSeek-V3"], Layout(gpus=1024, expert=64)
    plain = time(model, layout, one_copy_per_node=False)
    once = time(model, layout)
    # 8 copies to 8 nodes at random, or to at most 4 groups of experts (arXiv 2412.19437, section 2.1.2).
    assert plain.all_to_all / once.all_to_all == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    "entry", [each for each in PUBLISHED["runs"] if each["use"] == "calibrated"], ids=lambda entry: entry["name"]
)
def test_calibrated_runs_come_out_within_a_seventh(entry):
    seen, predicted = speeds(entry, MODELS[entry["model"]], usual_assumptions())
    assert predicted / seen == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "entry",
    [each for each in PUBLISHED["runs"] if each["use"] == "held out" and "best_with" not in each],
    ids=lambda entry: entry["name"],
)
def test_held_out_runs_come_out_as_the_document_says(entry):
    seen, predicted = speeds(entry, MODELS[entry["model"]], usual_assumptions())
    assert 0.8 < predicted / seen < 1.6
