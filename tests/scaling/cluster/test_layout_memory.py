import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.cluster.hardware import gpu
from scaling.cluster.layout.activations import kept_by_layer, kept_bytes
from scaling.cluster.layout.assumptions import usual_assumptions
from scaling.cluster.layout.degrees import Columns, micro_batches_of
from scaling.cluster.layout.estimate import taken
from scaling.cluster.layout.megatron_memory import megatron_state_bytes
from scaling.cluster.layout.memory import GIB, memory_of, params_on_rank
from scaling.cluster.stages import chunk_layers, stages_of
from scaling.plan import Layout
from tests.scaling.cluster.layout_cases import MODELS, PUBLISHED, a_run
from trainer_small.architecture import Architecture

MEGATRON = json.loads(Path(__file__).with_name("megatron_states.json").read_text())["rows"]
names = st.sampled_from(sorted(MODELS))


def memory(model, layout, *, micro_batches=64, sequence_length=4096, precision="bf16", **changes):
    """One layout's memory, with some assumptions changed."""
    return memory_of(
        model, layout, sequence_length=sequence_length, micro_batches=micro_batches, gpu_memory=8e10,
        assumptions=usual_assumptions().model_copy(update=changes), precision=precision,
    )  # fmt: skip


@pytest.mark.parametrize("row", MEGATRON, ids=lambda row: f"{row['model']}-{row['layout']}-{row['sharded_optimizer']}")
def test_the_megatron_convention_gives_megatron_lms_own_number(row):
    layout = Layout(**row["layout"])
    ours = megatron_state_bytes(MODELS[row["model"]], layout, sharded_optimizer=row["sharded_optimizer"])
    assert ours == pytest.approx(row["bytes"], rel=1e-6)


def test_deepseek_v3_on_1024_gpus_is_21_5_gib_by_megatron_lm():
    layout = Layout(gpus=1024, pipeline=16, expert=64)
    assert megatron_state_bytes(MODELS["DeepSeek-V3"], layout) / GIB == pytest.approx(21.5, abs=0.05)


@given(names, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
def test_stages_hold_the_whole_model_once(name, pipeline, virtual):
    model = MODELS[name]
    layout = Layout(gpus=pipeline, pipeline=pipeline, virtual_pipeline=virtual)
    stages = stages_of(model, pipeline, virtual)
    plain, routed = params_on_rank(model, layout, stages)
    # A tied table lies on the first stage and again on the last, when that is another.
    repeated = model.vocab_size * model.hidden_size if model.tied_embeddings and pipeline > 1 else 0
    assert plain.sum() + routed.sum() == pytest.approx(model.params_total + repeated)


@given(st.integers(2, 130), st.integers(1, 64))
def test_layers_are_spread_whole_and_none_is_lost(layers, chunks):
    chunks = min(chunks, layers)
    model = Architecture(
        vocab_size=32000, hidden_size=1024, num_layers=layers, num_attention_heads=8, dense_ffn_size=4096
    )
    sizes = chunk_layers(model, chunks)
    assert sum(sizes) == layers
    assert min(sizes) >= 1
    assert max(sizes[:-1], default=0) - min(sizes[:-1], default=0) <= 1


def test_a_dense_layer_keeps_what_the_paper_says():
    # arXiv 2205.05198, sections 4 and 5: 34 s b h / t with selective recomputation of attention (here: a fused kernel),
    # less the two dropout masks of 1 byte each. An FFN of three matrices of 8/3 h for one of two of 4 h.
    model = Architecture(vocab_size=1000, hidden_size=3072, num_layers=2, num_attention_heads=24, dense_ffn_size=8192)
    for tensor, size in ((1, 1), (4, 2)):
        layout = Layout(gpus=4, tensor=tensor, micro_batch_size=size)
        kept = kept_bytes(kept_by_layer(model, layout, 2048, moe=False), "none", "bf16")
        assert kept == pytest.approx(32 * 2048 * size * 3072 / tensor)


@pytest.mark.parametrize(("pipeline", "virtual"), [(8, 2), (16, 3), (4, 8)])
def test_interleaving_costs_what_the_paper_says(pipeline, virtual):
    # arXiv 2205.05198, section 4.2.3: (1 + (p - 1) / (p m)) times, on the first stage.
    model = Architecture(
        vocab_size=8, hidden_size=256, num_layers=pipeline * virtual * 2, num_attention_heads=8, dense_ffn_size=1024
    )
    plain = memory(model, Layout(gpus=pipeline, pipeline=pipeline))
    interleaved = memory(model, Layout(gpus=pipeline, pipeline=pipeline, virtual_pipeline=virtual))
    assert plain.stage == interleaved.stage == 0
    assert interleaved.activations / plain.activations == pytest.approx(1 + (pipeline - 1) / (pipeline * virtual))


@given(names, st.sampled_from([1, 4]), st.sampled_from(["bf16", "fp8"]))
def test_recomputing_more_keeps_less(name, tensor, precision):
    kept = [
        memory(MODELS[name], Layout(gpus=64, pipeline=4, tensor=tensor, recompute=recompute), precision=precision)
        for recompute in ("full", "selective", "none")
    ]
    full, selective, none = (each.total for each in kept)
    assert full < selective < none


@given(names, st.sampled_from([1, 2, 4]), st.sampled_from([1, 4]), st.sampled_from(["none", "selective", "full"]))
def test_more_tensor_parallelism_never_takes_more(name, tensor, pipeline, recompute):
    model = MODELS[name]
    small, large = (
        memory(model, Layout(gpus=512, pipeline=pipeline, tensor=degree, recompute=recompute))
        for degree in (tensor, 2 * tensor)
    )
    assert large.total < small.total
    assert large.activations < small.activations


@given(names, st.sampled_from(["expert", "context", "pipeline"]))
def test_more_splitting_never_takes_more_of_what_it_splits(name, degree):
    model = MODELS[name]
    if degree == "expert" and not model.is_moe:
        return
    small, large = (memory(model, Layout(gpus=512, **{degree: size})) for size in (4, 8))
    if degree == "context":
        assert large.activations == pytest.approx(small.activations / 2)
        assert large.states == small.states  # the optimizer is sharded over context parallel ranks too
    elif degree == "expert":
        assert large.weights < small.weights
    else:
        assert large.states < small.states


def test_no_sharding_puts_the_whole_optimizer_on_each_gpu():
    model, layout = MODELS["Llama-3-8B"], Layout(gpus=8)
    assert memory(model, layout, sharded_optimizer=False).states == pytest.approx(18 * model.params_total)
    assert memory(model, layout).states == pytest.approx((6 + 12 / 8) * model.params_total)
    assert memory(model, layout, precision="fp32", sharded_optimizer=False).states == pytest.approx(
        16 * model.params_total
    )


def test_logits_are_held_by_the_last_stage():
    model = MODELS["Llama-3-8B"]
    one = memory(model, Layout(gpus=8, micro_batch_size=2))
    assert one.logits == pytest.approx(2 * 4096 * model.vocab_size * usual_assumptions().logit_bytes)
    assert memory(model, Layout(gpus=8, tensor=8, micro_batch_size=2)).logits == pytest.approx(one.logits / 8)


def test_few_micro_batches_keep_few_in_flight():
    model = MODELS["Llama-3-8B"]
    layout = Layout(gpus=8, pipeline=8)
    # Only the stage of most bytes is told; with one micro-batch no stage holds more than one.
    one, many = memory(model, layout, micro_batches=1), memory(model, layout, micro_batches=64)
    assert one.activations < many.activations / 4


@pytest.mark.parametrize("entry", PUBLISHED["memory"], ids=lambda entry: entry["name"])
def test_within_a_fifth_of_what_frameworks_allocated(entry):
    layout = Layout(gpus=entry["gpus"], **entry["layout"])
    micro_batches = micro_batches_of(layout, entry["batch"])
    model, changes = MODELS[entry["model"]], entry["assumptions"]
    needed = memory(model, layout, micro_batches=micro_batches, precision=entry["precision"], **changes)
    seen = entry["gib"] * GIB if "gib" in entry else entry["gb"] * 1e9
    assert needed.total == pytest.approx(seen, rel=0.2)


def test_a_column_gives_what_each_layout_gives_alone():
    run = a_run(MODELS["Qwen3-30B-A3B"])
    tensors, experts = np.array([1, 2, 4]), np.array([8, 16, 8])
    ones = np.ones(3, dtype=int)
    columns = Columns(gpus=64, pipeline=2, virtual_pipeline=2, recompute="selective", tensor=tensors, expert=experts,
                      expert_tensor=ones, context=ones, micro_batch_size=ones)  # fmt: skip
    together, times = taken(run, columns, gpu("h200"), usual_assumptions())
    for index in range(3):
        layout = Layout(gpus=64, pipeline=2, virtual_pipeline=2, recompute="selective", tensor=int(tensors[index]),
                        expert=int(experts[index]))  # fmt: skip
        alone, time = taken(run, layout, gpu("h200"), usual_assumptions())
        assert together.total[index] == pytest.approx(alone.total[0])
        assert times.total[index] == pytest.approx(time.total[0])
