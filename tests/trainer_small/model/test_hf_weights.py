"""A model of ours, opened by transformers from disk, gives the same logits; and back, the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.model.hf_weights import from_hugging_face, to_hugging_face
from trainer_small.model.model import Model

transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
from safetensors.torch import load_file, save_file  # noqa: E402

from scaling.hf.write import hf_config  # noqa: E402

BASE = {"vocab_size": 120, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "norm_eps": 1e-6}
EXPERTS = {"num_experts": 6, "experts_per_token": 2, "expert_ffn_size": 24, "dense_ffn_size": 40}
MLA = {
    "attention": "mla",
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_dense_layers": 1,
    "num_shared_experts": 2,
    "router_score_function": "sigmoid",
    "router_selection_bias": True,
    "router_scaling_factor": 2.5,
    "num_expert_groups": 3,
    "expert_groups_per_token": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "dense_ffn_size": 40},
    "llama with biases": {
        "dense_ffn_size": 40,
        "attention_bias": True,
        "attention_output_bias": True,
        "dense_ffn_bias": True,
    },
    "qwen3": {"num_key_value_heads": 2, "head_dim": 10, "dense_ffn_size": 40, "qk_norm": "per_head"},
    "mixtral": EXPERTS | {"num_key_value_heads": 2},
    "qwen3_moe": EXPERTS | {"num_key_value_heads": 2, "head_dim": 12, "qk_norm": "per_head", "router_normalize": True},
    "olmoe": EXPERTS | {"qk_norm": "full_width", "router_normalize": False},
    "qwen2_moe": EXPERTS | {"num_shared_experts": 1, "shared_expert_gate": True, "router_normalize": False},
    "deepseek_v3": EXPERTS | MLA | {"q_lora_rank": 12},
    "glm4_moe": EXPERTS
    | {key: value for key, value in MLA.items() if "head_dim" not in key and key not in ("attention", "kv_lora_rank")}
    | {"num_key_value_heads": 2, "head_dim": 12, "qk_norm": "per_head", "attention_bias": True},
    "deepseek_v3 with biases, tied": EXPERTS
    | MLA
    | {"q_lora_rank": 12, "attention_bias": True, "attention_output_bias": True, "tied_embeddings": True},
    "deepseek_v3 with direct queries": EXPERTS | MLA | {"q_lora_rank": None},
    "deepseek_v3 with multi-token prediction": EXPERTS | MLA | {"q_lora_rank": 12, "num_nextn_predict_layers": 1},
    "deepseek_v2": EXPERTS
    | MLA
    | {
        "q_lora_rank": 12,
        "router_score_function": "softmax",
        "router_normalize": False,
        "router_selection_bias": False,
    },
    "axk1": EXPERTS | MLA | {"q_lora_rank": 12, "moe_output_norm": True},
}


def _random_model(architecture: Architecture) -> Model:
    torch.manual_seed(1)
    model = Model(architecture, dispatch="sorted").eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
        elif name.endswith("selection_bias"):
            torch.nn.init.normal_(tensor, std=0.1)
        else:
            torch.nn.init.normal_(tensor, std=0.3)
    return model


def _open_with_transformers(architecture: Architecture, weights: dict[str, torch.Tensor], folder: Path) -> Any:
    config = hf_config(architecture, dtype="float32")
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["mismatched_keys"]
    # transformers has no class for the layers beyond the last; vLLM reads them by these names.
    assert config.get("num_nextn_predict_layers", 0) == architecture.num_nextn_predict_layers
    further = f"model.layers.{architecture.num_layers}."
    assert all(key.startswith(further) for key in loading["unexpected_keys"])
    assert bool(loading["unexpected_keys"]) == (architecture.num_nextn_predict_layers > 0)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    architecture = Architecture.parse(BASE | MODELS[name], name)
    model_type = hf_config(architecture)["model_type"]
    model = _random_model(architecture)
    weights = to_hugging_face(model.state_dict(), architecture, model_type)
    theirs = _open_with_transformers(architecture, weights, tmp_path)
    tokens = torch.randint(0, 120, (3, 20))
    with torch.no_grad():
        ours, expected = model.logits(tokens), theirs(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_the_identity(name: str, tmp_path: Path) -> None:
    architecture = Architecture.parse(BASE | MODELS[name], name)
    model_type = hf_config(architecture)["model_type"]
    state = _random_model(architecture).state_dict()
    save_file(to_hugging_face(state, architecture, model_type), tmp_path / "model.safetensors")
    back = from_hugging_face(load_file(tmp_path / "model.safetensors"), architecture, model_type)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_weights_of_another_shape_are_refused() -> None:
    architecture = Architecture.parse(BASE | MODELS["qwen3_moe"], "qwen3_moe")
    weights = to_hugging_face(_random_model(architecture).state_dict(), architecture, "qwen3_moe")
    wider = Architecture.parse(BASE | MODELS["qwen3_moe"] | {"num_experts": 7}, "qwen3_moe")
    with pytest.raises(UserError, match=r"no weight .*experts\.6"):
        from_hugging_face(
            {k: v for k, v in weights.items() if "gate.weight" not in k}
            | {k: torch.zeros(7, 32) for k in weights if "mlp.gate.weight" in k},
            wider,
            "qwen3_moe",
        )
    with pytest.raises(UserError, match="shape"):
        from_hugging_face(weights | {"model.norm.weight": torch.ones(3)}, architecture, "qwen3_moe")
    with pytest.raises(UserError, match=r"'model\.extra'"):
        from_hugging_face(weights | {"model.extra": torch.ones(3)}, architecture, "qwen3_moe")
