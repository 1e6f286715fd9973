"""The same weights in transformers' class and in ours: equal logits in float32, as near as its own in bfloat16."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer_small.architecture import Architecture
from trainer_small.model.hf_weights import to_hugging_face
from trainer_small.model.model import Model

transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
from safetensors.torch import save_file  # noqa: E402

from scaling.hf.write import hf_config  # noqa: E402

pytestmark = pytest.mark.gpu

_BASE = {"vocab_size": 512, "hidden_size": 128, "num_layers": 3, "num_attention_heads": 4, "norm_eps": 1e-6}
_BASE |= {"num_experts": 16, "experts_per_token": 4, "expert_ffn_size": 64, "dense_ffn_size": 256}
_MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 32, "qk_norm": "per_head", "router_normalize": True},
    "olmoe": {"qk_norm": "full_width", "router_normalize": False},
    "deepseek_v3": {
        "attention": "mla",
        "q_lora_rank": 48,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "num_dense_layers": 1,
        "num_shared_experts": 1,
        "router_score_function": "sigmoid",
        "router_selection_bias": True,
        "router_scaling_factor": 2.5,
        "num_expert_groups": 4,
        "expert_groups_per_token": 2,
    },
}


@pytest.mark.parametrize("name", _MODELS)
def test_transformers_computes_the_same_logits(name: str, device: torch.device, tmp_path: Path) -> None:
    architecture = Architecture.parse(_BASE | _MODELS[name], name)
    dispatch = "grouped" if device.type == "cuda" else "sorted"
    torch.manual_seed(1)
    model = Model(architecture, dispatch=dispatch).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("norm.weight"):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            torch.nn.init.normal_(tensor, std=0.1 if key.endswith("selection_bias") else 1.5 * tensor.shape[-1] ** -0.5)
    config = hf_config(architecture, dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = to_hugging_face(model.state_dict(), architecture, config["model_type"])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval().to(device)
    in_bf16 = Model(architecture, dispatch=dispatch, compute_dtype=torch.bfloat16).eval()
    in_bf16.load_state_dict(model.state_dict())
    tokens = torch.randint(0, architecture.vocab_size, (4, 128), device=device)
    with torch.no_grad():
        expected = theirs(tokens).logits
        ours, ours_in_bf16 = model.to(device).logits(tokens), in_bf16.to(device).logits(tokens)
        with torch.autocast(device.type, torch.bfloat16):
            theirs_in_bf16 = theirs(tokens).logits

    def error(logits: torch.Tensor) -> float:
        return ((logits.float() - expected).norm() / expected.norm()).item()

    assert error(ours) < 1e-4
    assert error(ours_in_bf16) < 2 * error(theirs_in_bf16) + 0.01
