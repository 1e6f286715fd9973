"""config.json is understood as transformers understands it, and written so that it says the same again."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fits.errors import UserError
from scaling.handoff.huggingface import count_with_transformers
from scaling.hf.model_types import model_types
from scaling.hf.read import parse_hf_config, read_hf_config
from scaling.hf.write import hf_config
from tests.scaling.hf.hf_strategies import TYPES, architectures, hf_configs
from trainer_small.architecture import Architecture

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("model_type", TYPES)
def test_counts_of_random_small_configs_equal_the_class(model_type: str) -> None:
    pytest.importorskip("transformers")

    @SETTINGS
    @given(hf_configs(model_type))
    def check(config: dict) -> None:
        built = config | ({"model_type": "deepseek_v3"} if model_type == "kimi_k2" else {})
        counted = parse_hf_config(config, "config.json").architecture.params_total
        assert counted == count_with_transformers(built, "config.json")

    check()


@pytest.mark.parametrize("model_type", [name for name in TYPES if name != "kimi_k2"])
def test_defaults_are_those_of_the_class(model_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = model_types()[model_type]
    config_class = transformers.CONFIG_MAPPING[model_type]
    framework = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)} | {"rope_parameters"}
    renamed = {"num_mtp_layers": "num_nextn_predict_layers"}
    theirs = {
        renamed.get(field.name, field.name): getattr(config_class, field.name, field.default)
        for field in dataclasses.fields(config_class)
        if field.name not in framework
    }
    ours = dict(kind.defaults)
    if model_type == "llama":  # declared with a validator there, so no plain default to read
        theirs["initializer_range"] = 0.02
    if model_type == "axk1":  # read by the class without being declared
        assert (ours.pop("first_k_dense_replace"), ours.pop("moe_layer_freq")) == (1, 1)
    assert ours == theirs
    assert kind.rope_theta == config_class.default_theta


@pytest.mark.parametrize("model_type", [name for name in TYPES if name != "kimi_k2"])
def test_files_that_leave_nearly_everything_out(model_type: str) -> None:
    pytest.importorskip("transformers")
    config = {"model_type": model_type, "num_hidden_layers": 5, "num_experts_per_tok": 3, "tie_word_embeddings": True}
    counted = parse_hf_config(config, "config.json").architecture.params_total
    assert counted == count_with_transformers(config, "config.json")


def test_axk1_with_only_its_name_is_the_published_model() -> None:
    model = parse_hf_config({"model_type": "AXK1"}, "config.json")
    assert model.architecture.params_total == 518_983_052_288
    assert model.architecture.params_active == 32_779_332_608
    assert "hidden_size 7168" in " ".join(model.warnings)


def test_moonlight_projects_queries_directly() -> None:
    given_keys = {
        "model_type": "deepseek_v3", "vocab_size": 163840, "hidden_size": 2048, "intermediate_size": 11264,
        "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
        "n_shared_experts": 2, "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446,
    }  # fmt: skip
    architecture = parse_hf_config(given_keys, "config.json").architecture
    assert architecture.q_lora_rank is None
    assert architecture.params_total == 15_960_108_544


@pytest.mark.parametrize(
    ("model_type", "keys", "where", "value"),
    [
        ("llama", {"rope_theta": 5e5}, "rope_theta", 5e5),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "rope_theta", 7.0),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 8.0}}}, "rope_theta", 8.0),
        ("llama", {"rope_scaling": {"factor": 2.0, "rope_theta": 9.0}}, "rope_theta", 9.0),
        ("mixtral", {}, "rope_theta", 1e6),
        ("llama", {"num_key_value_heads": None, "head_dim": None}, "num_key_value_heads", 32),
        ("qwen3_moe", {"num_local_experts": 16}, "num_experts", 16),
        ("deepseek_v3", {"num_local_experts": 64}, "num_experts", 64),
        ("qwen2_moe", {}, "num_shared_experts", 4),
        ("qwen3_moe", {"decoder_sparse_step": 2, "num_hidden_layers": 4}, "other_dense_layers", (2,)),
        ("deepseek_v3", {"n_shared_experts": None}, "num_shared_experts", 0),
    ],
)
def test_keys_that_hide(model_type: str, keys: dict, where: str, value: object) -> None:
    architecture = parse_hf_config({"model_type": model_type, **keys}, "config.json").architecture
    assert getattr(architecture, where) == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "key 'model_type' is missing"),
        ({"model_type": "qwen3_mo"}, "did you mean 'qwen3_moe'"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "num_experts_per_tok 9 is above num_local_experts 8"),
        ({"model_type": "llama", "num_attention_heads": 30}, "num_attention_heads 30 does not divide hidden_size 4096"),
        ({"model_type": "qwen3", "num_key_value_heads": 5}, "num_key_value_heads 5 does not divide"),
        ({"model_type": "deepseek_v2"}, "key 'num_experts_per_tok' is missing"),
        ({"model_type": "llama", "hidden_size": "wide"}, "key 'hidden_size' is 'wide'"),
        ({"model_type": "llama", "vocab_size": -5}, "vocab_size is -5"),
        ({"model_type": "llama", "num_hidden_layers": None}, "key 'num_hidden_layers' is null"),
        ({"model_type": "deepseek_v3", "n_group": 7}, "n_group 7 does not divide n_routed_experts 256"),
        ({"model_type": "qwen3_moe", "num_experts": 8, "num_local_experts": 16}, "keep one"),
        ({"model_type": "axk1", "mlp_layer_types": ["dense"]}, "mlp_layer_types names 1 layers"),
    ],
)
def test_impossible_files_are_one_sentence(tmp_path: Path, config: dict, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        read_hf_config(tmp_path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats())
GROUPS = st.one_of(
    st.lists(st.integers(-1, 9), max_size=3), st.dictionaries(st.text(max_size=2), st.none(), max_size=2)
)
JUNK = st.one_of(NUMBERS, GROUPS, st.text(max_size=3))


@settings(SETTINGS, max_examples=200)
@given(st.data(), st.sampled_from(TYPES))
def test_junk_is_understood_or_refused_in_one_sentence(data: st.DataObject, model_type: str) -> None:
    keys = [*sorted(model_types()[model_type].known_keys - {"model_type"}), "rope_parameters", "rope_scaling"]
    junk = data.draw(st.dictionaries(st.sampled_from(keys), JUNK, max_size=3))
    try:
        model = parse_hf_config({"model_type": model_type, "num_experts_per_tok": 2, **junk}, "config.json")
    except UserError as error:
        assert str(error).startswith("config.json") and "\n" not in str(error)
    else:
        assert model.architecture.params_total > 0


def test_a_misspelt_key_and_an_unread_one_are_named() -> None:
    config = {"model_type": "deepseek_v3", "n_routed_expert": 64, "moe_layer_freq": 2, "some_new_key": 1}
    warnings = " ".join(parse_hf_config(config, "config.json").warnings)
    assert "'n_routed_expert' is not one of deepseek_v3; did you mean 'n_routed_experts'?" in warnings
    assert "moe_layer_freq 2 is not read" in warnings
    assert "some_new_key" not in warnings


@settings(SETTINGS, max_examples=60)
@given(architectures())
def test_what_is_written_reads_back_the_same(architecture: Architecture) -> None:
    config = hf_config(architecture)
    assert parse_hf_config(config, "config.json").architecture == architecture
    assert parse_hf_config(config, "config.json").warnings == ()


@settings(SETTINGS, max_examples=40)
@given(architectures())
def test_transformers_builds_what_was_written(architecture: Architecture) -> None:
    pytest.importorskip("transformers")
    assert count_with_transformers(hf_config(architecture), "config.json") == architecture.params_total


@given(st.sampled_from(TYPES))
def test_every_key_of_the_class_is_written(model_type: str) -> None:
    keys = {"num_experts_per_tok": 2} if model_type == "deepseek_v2" else {}
    config = hf_config(parse_hf_config({"model_type": model_type, **keys}, "config.json").architecture)
    assert set(model_types()[model_type].defaults) <= set(config)
    assert "rope_parameters" in config and "architectures" in config


def test_a_model_that_no_class_computes_names_the_feature() -> None:
    architecture = Architecture(
        vocab_size=100, hidden_size=8, num_layers=2, num_attention_heads=2, num_experts=4, experts_per_token=2,
        expert_ffn_size=4, num_shared_experts=1, num_dense_layers=1, dense_ffn_size=16, qk_norm="full_width",
        router_score_function="sigmoid",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"qk_norm 'full_width'.*nearest is glm4_moe"):
        hf_config(architecture)
