"""Random small models for the handoff tests: as config.json of every type, and as architectures."""

from typing import Any

from hypothesis import strategies as st

from trainer_small.architecture import Architecture

_EXPERTS = {
    "mixtral": "num_local_experts", "gpt_oss": "num_local_experts", "olmoe": "num_experts",
    "qwen2_moe": "num_experts", "qwen3_moe": "num_experts",
}  # fmt: skip
_MLA = ("deepseek_v2", "deepseek_v3", "kimi_k2", "axk1")
TYPES = ("llama", "qwen3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "glm4_moe", "gpt_oss", *_MLA)


@st.composite
def hf_configs(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """A small config.json of one type; keys that may be left out often are."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 6))
    layers = draw(st.integers(1, 4))
    width = heads * head_dim
    config: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": draw(st.integers(10, 300)),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 50)),
        "num_key_value_heads": kv_heads,
    }
    optional: dict[str, Any] = {"tie_word_embeddings": draw(st.booleans()), "attention_bias": draw(st.booleans())}
    if model_type in ("llama", "deepseek_v2"):
        optional["mlp_bias"] = draw(st.booleans())
    if model_type not in _MLA and model_type != "olmoe":
        optional["head_dim"] = head_dim if model_type == "llama" else 2 * draw(st.integers(1, 6))
    if model_type in ("qwen3", "gpt_oss"):  # their default does not follow from the width
        config["head_dim"] = optional.pop("head_dim")
    if model_type not in ("llama", "qwen3"):
        experts = draw(st.sampled_from([4, 6, 8, 12]))
        config[_EXPERTS.get(model_type, "n_routed_experts")] = experts
        config["num_experts_per_tok"] = draw(st.integers(1, experts // 2))
    if model_type in ("qwen2_moe", "qwen3_moe"):
        optional["decoder_sparse_step"] = draw(st.integers(1, 3))
        optional["mlp_only_layers"] = draw(st.lists(st.integers(0, layers), unique=True, max_size=3))
        optional["qkv_bias"] = draw(st.booleans())
    if model_type == "qwen2_moe":
        config["shared_expert_intermediate_size"] = draw(st.integers(1, 40))
    if model_type in ("qwen2_moe", "qwen3_moe", "glm4_moe", *_MLA):
        config["moe_intermediate_size"] = draw(st.integers(1, 20))
    if model_type == "glm4_moe":
        optional["use_qk_norm"] = draw(st.booleans())
    if model_type in ("glm4_moe", *_MLA):
        optional |= {"n_shared_experts": draw(st.integers(0, 3)), "first_k_dense_replace": draw(st.integers(0, layers))}
        config |= {"n_group": 2, "topk_group": draw(st.integers(1, 2))}
    if model_type in _MLA:
        config |= {"num_key_value_heads": heads, "kv_lora_rank": 2 * draw(st.integers(1, 10))}
        config |= {"qk_nope_head_dim": 2 * draw(st.integers(1, 5)), "qk_rope_head_dim": 2 * draw(st.integers(1, 4))}
        optional |= {"v_head_dim": draw(st.integers(1, 9)), "q_lora_rank": draw(st.integers(1, 20))}
        if model_type != "axk1":
            optional["q_lora_rank"] = draw(st.none() | st.integers(1, 20))
    if model_type == "deepseek_v2" and not optional["n_shared_experts"]:
        optional["mlp_bias"] = False  # the class would keep a bias of an FFN without width
    kept = draw(st.sets(st.sampled_from(sorted(optional))))
    return config | {key: value for key, value in optional.items() if key in kept}


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """A small model that some Hugging Face class computes exactly."""
    kv_heads, head_dim = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 6))
    heads, layers = kv_heads * draw(st.integers(1, 3)), draw(st.integers(1, 4))
    values: dict[str, Any] = {
        "vocab_size": draw(st.integers(10, 300)),
        "hidden_size": heads * head_dim,
        "num_layers": layers,
        "num_attention_heads": heads,
        "dense_ffn_size": draw(st.integers(1, 50)),
        "tied_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([10000.0, 500000.0])),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
    }
    gqa = {"num_key_value_heads": kv_heads, "head_dim": head_dim}
    mla = {"attention": "mla", "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
    moe = {"num_experts": 8, "experts_per_token": draw(st.integers(1, 4)), "expert_ffn_size": draw(st.integers(1, 20))}
    leading = {"num_dense_layers": draw(st.integers(0, layers - 1))}
    sigmoid = {
        "router_score_function": "sigmoid",
        "router_selection_bias": True,
        "router_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
        "router_normalize": draw(st.booleans()),
        "num_shared_experts": draw(st.integers(0, 2)),
    }
    groups = {"num_expert_groups": 2, "expert_groups_per_token": draw(st.integers(1, 2))}
    per_head, bias = {"qk_norm": "per_head"}, {"attention_bias": True, "attention_output_bias": True}
    shared_gate = {"num_shared_experts": draw(st.integers(1, 3)), "shared_expert_gate": True}
    values |= draw(
        st.sampled_from(
            [
                gqa,
                gqa | per_head,
                gqa | bias | {"dense_ffn_bias": True},
                gqa | moe | {"dense_ffn_size": 0},
                gqa | moe | leading | per_head,
                gqa | moe | {"qk_norm": "full_width", "dense_ffn_size": 0},
                gqa | moe | leading | shared_gate | {"attention_bias": True},
                gqa | moe | leading | sigmoid,
                gqa | moe | leading | sigmoid | groups | per_head,
                mla | moe | leading | sigmoid | groups,
                mla | moe | leading | sigmoid | {"q_lora_rank": 7, "moe_output_norm": True},
                mla | moe | leading | {"router_normalize": False, "num_shared_experts": 2},
            ]
        )
    )
    return Architecture.model_validate(values)
