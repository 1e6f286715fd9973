import json

import pytest

from fits.errors import UserError
from tests.places import SHARED
from trainer_small.architecture import Architecture

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_layers": 3,
    "num_attention_heads": 4,
    "dense_ffn_size": 192,
    "num_experts": 8,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_ffn_size": 64,
    "num_dense_layers": 1,
}


def test_counts_of_a_small_moe_by_hand():
    shape = Architecture(**SMALL)
    attention = 4 * 64 * 64
    expert = 3 * 64 * 64
    dense = 3 * 64 * 192
    norms = (2 * 3 + 1) * 64
    total = 2 * 64000 + 3 * attention + dense + 2 * (8 * 64 + 9 * expert) + norms
    assert shape.params_total == total
    assert shape.params_active == total - 2 * 6 * expert
    assert shape.params_active_non_embedding == shape.params_active - 128000
    assert shape.params_active_without_input_embedding == shape.params_active - 64000
    weights = 3 * attention + dense + 2 * (3 * expert + 8 * 64) + 64000
    assert shape.flops_per_token(128, causal=False) == 3 * (2 * weights + 128 * 3 * 4 * 2 * 2 * 16)
    assert shape.activation_ratio == 3 / 9
    assert shape.granularity == 2


def test_sizes_written_with_an_exponent_are_the_same_model():
    written = SMALL | {"hidden_size": "6.4e1", "num_attention_heads": 4.0, "vocab_size": "1e3"}
    assert Architecture.parse(written, "model.yaml") == Architecture(**SMALL)


def test_tied_embeddings_count_once():
    tied = Architecture(**SMALL, tied_embeddings=True)
    untied = Architecture(**SMALL)
    assert untied.params_total - tied.params_total == 64000
    assert tied.params_active_non_embedding == untied.params_active_non_embedding
    assert tied.params_active_without_input_embedding == tied.params_active
    assert tied.flops_per_token(128) == untied.flops_per_token(128)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts_per_token": 9}, "experts_per_token 9 is above num_experts 8"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 64"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide"),
        ({"num_expert_groups": 3}, "num_expert_groups 3 does not divide num_experts 8"),
        ({"num_dense_layers": 4}, "num_dense_layers 4 is above num_layers 3"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"expert_ffn_size": 0}, "expert_ffn_size is 0"),
        ({"num_expert": 8}, "did you mean 'num_experts'"),
    ],
)
def test_nonsense_is_refused_in_words(change, words):
    with pytest.raises(UserError) as caught:
        Architecture.parse(SMALL | change, "model.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("model.yaml")


def test_known_models_exactly():
    path = SHARED / "data" / "known_models.json"
    if not path.exists():
        pytest.skip("the shared table of published models is not beside the clone")
    for name, known in json.loads(path.read_text()).items():
        shape = _from_table(known["architecture"])
        expected, flops = known["parameters"], known["flops"]
        assert shape.params_total == expected["total"], name
        assert shape.params_active == expected["active"], name
        assert shape.params_active_without_input_embedding == expected["active_without_input_embedding"], name
        assert shape.params_active_non_embedding == expected["active_non_embedding"], name
        assert {role: n for role, n in shape.params_by_role().items() if n} == expected["by_role"], name
        assert shape.flops_per_token(4096) == flops["train_per_token_4096_causal"], name
        assert shape.flops_per_token(4096, causal=False) == flops["train_per_token_4096_full_attention"], name


def _from_table(table: dict) -> Architecture:
    table = dict(table)
    table.pop("num_moe_layers", None)
    table["attention_bias"] = table.pop("qkv_bias")
    table["attention_output_bias"] = table.pop("output_proj_bias")
    table["attention"] = table["attention"].replace("mha", "gqa")
    table["num_shared_experts"] = int(bool(table.pop("shared_ffn_size", 0)))
    table.setdefault("dense_ffn_size", table.pop("ffn_size", 0))
    return Architecture.model_validate(table)
