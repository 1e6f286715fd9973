import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.cluster.layout.assumptions import usual_assumptions
from scaling.cluster.layout.bound import least_bytes_per_gpu, usable_bytes
from scaling.cluster.layout.memory import memory_of
from scaling.plan import Layout
from trainer_small.architecture import Architecture

POWERS = st.sampled_from([1, 2, 4, 8])


@st.composite
def layouts(draw):
    """A model and a layout whose degrees make up the GPUs."""
    num_experts = draw(st.sampled_from([0, 8, 64]))
    layers = draw(st.integers(1, 40))
    model = Architecture(
        vocab_size=draw(st.sampled_from([1024, 131072])),
        hidden_size=draw(st.sampled_from([256, 1024])),
        num_layers=layers,
        num_attention_heads=8,
        tied_embeddings=draw(st.booleans()),
        dense_ffn_size=1024,
        num_experts=num_experts,
        experts_per_token=2 if num_experts else 0,
        expert_ffn_size=256 if num_experts else 0,
        num_shared_experts=draw(st.integers(0, 1)) if num_experts else 0,
        num_dense_layers=draw(st.integers(0, layers)) if num_experts else 0,
    )
    tensor, context, data = draw(POWERS), draw(POWERS), draw(POWERS)
    pipeline = draw(st.integers(1, min(layers, 64)))
    ranks = tensor * context * data
    expert = draw(st.sampled_from([d for d in (1, 2, 4, 8) if ranks % d == 0])) if num_experts else 1
    return model, Layout(gpus=ranks * pipeline, tensor=tensor, context=context, pipeline=pipeline, expert=expert,
                         recompute=draw(st.sampled_from(["none", "selective", "full"])))  # fmt: skip


@given(layouts(), st.booleans())
def test_no_layout_needs_less_than_the_bound(drawn, sharded):
    model, layout = drawn
    assumptions = usual_assumptions().model_copy(update={"sharded_optimizer": sharded})
    needed = memory_of(
        model, layout, sequence_length=128, micro_batches=4, gpu_memory=8e10, assumptions=assumptions
    ).total
    routed = model.params_by_role()["routed_experts"]
    least = least_bytes_per_gpu(
        model.params_total, layout.gpus, params_routed=routed, num_layers=model.num_layers, assumptions=assumptions
    )
    loose = least_bytes_per_gpu(model.params_total, layout.gpus, assumptions=assumptions)
    assert 0 < loose <= least * (1 + 1e-12)
    assert least <= needed * (1 + 1e-12)


def test_the_bound_takes_columns():
    totals, routed = np.array([1e9, 671e9]), np.array([0.0, 650e9])
    least = least_bytes_per_gpu(totals, 1024, params_routed=routed, num_layers=np.array([16, 61]))
    one = least_bytes_per_gpu(671e9, 1024, params_routed=650e9, num_layers=61)
    assert least.shape == (2,)
    assert least[1] == pytest.approx(one)
    assert least[1] == pytest.approx(18 * 650e9 / 1024 + 21e9 * (6 / (8 * 61) + 12 / 1024))


def test_usable_bytes_are_part_of_the_data_sheet():
    assert usable_bytes("h200") == pytest.approx(0.92 * 141e9)
