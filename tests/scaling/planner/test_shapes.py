"""Shapes by the column: what a row counts is what its architecture counts, and limits say what they stop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fits.errors import UserError
from scaling.cluster.serving import decode_seconds, kv_bytes_per_token
from scaling.planner.constraints import constraints_of
from scaling.planner.loss_model import Text
from scaling.planner.search import Spending, candidates
from scaling.planner.search_space import SearchSpace, dense_space, usual_space
from scaling.planner.shapes import ShapeTable, blocks, widths
from trainer_small.ladder import Experts, Family, usual_depth

COUNTED = (
    "params_total",
    "params_active",
    "params_active_non_embedding",
    "params_total_non_embedding",
    "activation_ratio",
    "granularity",
    "num_moe_layers",
)


@st.composite
def spaces(draw) -> SearchSpace:
    """Free choices of routing, or none, for families of both kinds of attention."""
    family = Family(
        attention=draw(st.sampled_from(["gqa", "mla"])),
        num_dense_layers=draw(st.integers(0, 3)),
        tied_embeddings=draw(st.booleans()),
        qk_norm=draw(st.sampled_from(["none", "per_head"])),
        moe_output_norm=draw(st.booleans()),
    )
    some = {"max_size": 3, "min_size": 1, "unique": True}
    space = SearchSpace.model_validate(
        {
            "hidden_size": draw(st.lists(st.sampled_from(widths()), **some)),
            "depth_factors": draw(st.lists(st.sampled_from([0.7, 1.0, 1.3]), **some)),
            "head_factors": draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), **some)),
            "num_experts": draw(st.lists(st.sampled_from([8, 64, 192]), **some)),
            "experts_per_token": draw(st.lists(st.integers(1, 4), **some)),
            "num_shared_experts": draw(st.lists(st.integers(0, 2), **some)),
            "granularity": draw(st.lists(st.sampled_from([0.5, 1.0, 3.0, 7.0]), **some)),
            "num_dense_layers": draw(st.lists(st.integers(0, 2), **some)),
            "vocab_size": draw(st.lists(st.sampled_from([512, 32000, 163840]), **some)),
            "active_ffn_ratio": (0.01, 100.0),
            "family": family,
        }
    )
    return space if draw(st.booleans()) else dense_space(space)


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1), st.sampled_from([128, 4096]))
def test_the_columns_count_what_the_architecture_counts(space, seed, length):
    tables = list(blocks(space))
    table = ShapeTable.joined(tables)
    assert len(table) == sum(map(len, tables)) > 0
    per_token = table.flops_per_token(length)
    decode, cache = decode_seconds(table, "h200"), kv_bytes_per_token(table)
    for row in np.random.default_rng(seed).integers(0, len(table), 5):
        shape = table.architecture(row)
        for name in COUNTED:
            assert getattr(shape, name) == getattr(table, name)[row], name
        assert shape.flops_per_token(length) == per_token[row]
        assert decode_seconds(shape, "h200") == pytest.approx(decode[row], rel=1e-12)
        assert kv_bytes_per_token(shape) == cache[row]


def test_the_usual_shape_of_a_width_is_the_ladders():
    experts = Experts(num_experts=192, experts_per_token=8, num_shared_experts=1, granularity=7)
    family = Family(attention="mla", moe_output_norm=True)
    space = SearchSpace(
        experts=(experts,), vocab_size=(163840,), hidden_size=(7168,), depth_factors=(1.0,), family=family
    )
    (table,) = blocks(space)
    assert len(table) == 1
    assert table.architecture(0) == family.shape(7168, round(usual_depth(7168)), experts, 163840)


def found(space: SearchSpace, flops: float = 1e15, length: int = 256, gpus: int | None = None):
    spending = Spending(flops, Text(length), space.inference_tokens)
    return candidates(space, spending, constraints_of(space, flops, "h200", gpus))


def small(**changes) -> SearchSpace:
    experts = [Experts(num_experts=e, experts_per_token=2, num_shared_experts=1, granularity=2) for e in (4, 8)]
    return SearchSpace.model_validate({"experts": experts, "vocab_size": (2048,), **changes})


def test_every_candidate_spends_the_budget_inside_the_limits():
    kept = found(small(max_params_total=2e6))
    rows = kept.verdict == -1
    assert rows.any()
    assert kept.table.params_total[rows].max() <= 2e6
    np.testing.assert_allclose(kept.tokens * kept.table.flops_per_token(256), 1e15, rtol=1e-12)
    ratio = kept.tokens[rows] / kept.table.params_active[rows]
    assert ratio.min() >= 1.0
    beyond = kept.table.params_total[~rows]
    assert beyond.max() <= 3e6  # only what the stated loosening would allow is kept besides


def test_serving_takes_its_share_of_the_budget_first():
    space = small(inference_tokens=1e8)
    kept = found(space)
    spent = kept.tokens * kept.table.flops_per_token(256) + 2 * kept.table.params_active * 1e8
    np.testing.assert_allclose(spent, 1e15, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_params_total": 1000}, "max_params_total 1000 (the nearest shape has"),
        ({"max_params_active": 1000}, "max_params_active 1000 (the nearest shape has"),
        ({"max_decode_seconds": 1e-9}, "max_decode_seconds 1e-09 h200-seconds a million tokens (the nearest"),
        ({"tokens_per_parameter": (1e7, 1e8)}, "tokens_per_parameter from 1e+07 (the nearest shape has"),
        ({"inference_tokens": 1e15}, "share of the budget for inference_tokens 1 (the nearest shape has"),
        ({"max_params_total": 3e5, "tokens_per_parameter": (1, 30)}, "30 (the nearest shape has"),
        ({"max_params_total": 3e5, "tokens_per_parameter": (1, 30)}, "contradict each other"),
        ({"max_params_total": 10, "max_params_active": 10}, "each leave none"),
    ],
)
def test_limits_that_leave_nothing_are_named_with_the_nearest_miss(changes, words):
    with pytest.raises(UserError, match="no shape fits") as caught:
        found(small(**changes))
    assert words in str(caught.value)


def test_memory_stops_what_no_layout_holds():
    """671B parameters need 18 bytes each: 8 H200 of 141 GB hold a tenth of that."""
    space = usual_space(vocab_size=(131072,), hidden_size=(7168,), num_experts=(256,), granularity=(7.0,))
    with pytest.raises(UserError, match=r"memory of 8 h200, .* GiB a GPU"):
        found(space, 3e24, 4096, gpus=8)
    assert (found(space, 3e24, 4096, gpus=1024).verdict == -1).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": (8,)}, "experts_per_token is left out"),
        ({"num_experts": (8,), "experts_per_token": (16,), "granularity": (2,)}, "experts_per_token 16 is above every"),
        ({"experts_per_token": (2,), "granularity": (2,)}, "num_experts is left out"),
        ({"tokens_per_parameter": (10, 1)}, "swap them"),
        ({"schema_version": 2}, "schema_version 2, this program reads 1"),
        ({"max_param_total": 3}, "did you mean 'max_params_total'"),
        ({"granularity": (2,), "expert_ffn_size": (64,)}, "say the same"),
    ],
)
def test_a_constraints_file_that_makes_no_sense_is_one_sentence(changes, words, tmp_path):
    path = tmp_path / "constraints.yaml"
    path.write_text("\n".join(f"{key}: {list(v) if isinstance(v, tuple) else v}" for key, v in changes.items()))
    with pytest.raises(UserError, match=r"constraints\.yaml") as caught:
        SearchSpace.load(path)
    assert words in str(caught.value)


def test_depth_follows_width_up_to_the_published_large_models():
    assert usual_depth(7168) == pytest.approx(61, abs=1)
    assert all(width % 16 == 0 for width in widths())
