import numpy as np
import pytest

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.steps.loss import chunk_entries
from vocab_study.choice.choice import choose_vocabulary
from vocab_study.choice.costs import FUSED_ENTRIES, cost_at, kv_bytes_per_token
from vocab_study.choice.exact_curves import best_size, text_curve
from vocab_study.choice.published_predictors import predict, without_vocabulary
from vocab_study.study.make_study import study_vocabulary
from vocab_study.study.study import Study


@pytest.fixture(scope="module")
def study(small_corpus, tmp_path_factory) -> Study:
    return study_vocabulary(small_corpus, tmp_path_factory.mktemp("study"), max_size=3000)


def test_the_optimum_is_the_least_of_all_sizes(study):
    text = text_curve(study)
    optimum = best_size(text, 1e6, 128, tensor_parallel=1)
    compute = {size: (1e6 + size * 128) * study.tokens_per_byte(int(size)) for size in study.sizes}
    least = min(compute.values())
    assert compute[optimum.vocab_size] == least
    flat = [size for size, value in compute.items() if value <= 1.001 * least]
    assert (optimum.lowest_flat, optimum.highest_flat) == (flat[0], flat[-1])
    assert all(size % 128 == 0 and flat[0] <= size <= flat[-1] for size in optimum.friendly_sizes)


def test_a_larger_model_wants_no_smaller_vocabulary(study):
    text = text_curve(study)
    sizes = [best_size(text, params, 64).vocab_size for params in (1e4, 1e5, 1e6, 1e7, 1e8)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_an_optimum_at_the_edge_is_said_to_be_there(study):
    assert best_size(text_curve(study), 1e12, 64).at_the_edge
    assert not best_size(text_curve(study), 1e5, 512).at_the_edge


def test_a_mix_weighs_bytes(study):
    mixed = text_curve(study, {"code": 0.25, "english": 0.75})
    for size in (257, 1000, 3000):
        expected = 0.25 * study.tokens_per_byte(size, "code") + 0.75 * study.tokens_per_byte(size, "english")
        assert mixed.at(size) == pytest.approx(expected)
    text = study.summary.text["validation"]
    own = {group: text[group].bytes / text["all"].bytes for group in ("code", "english")}
    assert np.allclose(text_curve(study, own).tokens_per_byte, text_curve(study).tokens_per_byte)


@pytest.mark.parametrize(
    ("mix", "reason"),
    [({"code": 0.5}, "sum to 0.5"), ({"cod": 1.0}, "did you mean 'code'"), ({"code": 1.5, "english": -0.5}, "is 1.5")],
)
def test_a_mix_that_does_not_fit_is_refused(study, mix, reason):
    with pytest.raises(UserError, match=reason):
        text_curve(study, mix)


def test_costs(study):
    cost = cost_at(1000, 1e6, 64, text=text_curve(study), tensor_parallel=4, kv_bytes_per_token=2048)
    assert cost.padded_size == 1024 and cost.vocabulary_params == 128_000 and cost.logits_bytes == 4 * 1000 * 8192
    assert cost.head_share_of_active == pytest.approx(64_000 / 1_064_000)
    assert cost.fused_logits_bytes == cost.logits_bytes
    assert cost_at(163_840, 1e9, 7168).fused_logits_bytes == 4 * FUSED_ENTRIES
    assert chunk_entries(163_840, "cuda") == FUSED_ENTRIES
    tokens = study.tokens_per_byte(1000)
    assert cost.flops_per_byte == pytest.approx(6 * 1_064_000 * tokens)
    assert cost.decode_flops_per_character == pytest.approx(2 * 1_064_000 / study.characters_per_token(1000))
    assert cost.kv_bytes_per_character == pytest.approx(2048 / study.characters_per_token(1000))
    assert cost_at(3001, 1e6, 64, text=text_curve(study)).flops_per_byte is None


def test_the_cache_of_both_kinds_of_attention():
    shape = {"vocab_size": 1000, "hidden_size": 64, "num_layers": 3, "num_attention_heads": 4, "dense_ffn_size": 128}
    assert kv_bytes_per_token(Architecture(**shape, num_key_value_heads=2)) == 3 * 2 * 2 * 16 * 2
    mla = {"attention": "mla", "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    assert kv_bytes_per_token(Architecture(**shape, **mla)) == 3 * (32 + 8) * 2


def test_all_answers_side_by_side(study):
    choice = choose_vocabulary(1e6, 128, study=study, params_learning=1e7, compare=[2048])
    assert [law.params_are for law in choice.laws] == ["active"] * 6 + ["learning"] * 4
    assert choice.optimum and min(cost.compute_above_best or 0 for cost in choice.costs) == 0
    assert 2048 in [cost.vocab_size for cost in choice.costs]
    assert {move.change for move in choice.moves} >= {"text of code only", "twice the parameters"}


def test_without_a_study_the_laws_answer_alone():
    choice = choose_vocabulary(30.65e9, 7168, compare=[163_840])
    assert [law.vocab_size for law in choice.laws[:3]] == pytest.approx([121_722, 132_347, 121_967], abs=1)
    assert [law.identified for law in choice.laws] == [True, True, False, False, True, True]
    assert choice.optimum is None and all(cost.flops_per_byte is None for cost in choice.costs)
    with pytest.raises(UserError, match="give --study"):
        choose_vocabulary(1e9, 2048, mix={"en": 1.0})


def test_parameters_without_the_vocabulary_they_imply():
    params = without_vocabulary(33e9, 7168)
    assert params + 2 * 7168 * predict(params, 7168)[1].vocab_size == pytest.approx(33e9, rel=1e-6)
