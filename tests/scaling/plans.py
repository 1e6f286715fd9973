"""Training plans for the handoff tests."""

from typing import Any

from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

# A small model as the proxies have it: first layer dense, a shared expert, sigmoid router with a selection bias.
PROXY = {
    "vocab_size": 4096, "hidden_size": 256, "num_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 32, "dense_ffn_size": 768, "num_experts": 16, "experts_per_token": 4, "expert_ffn_size": 128,
    "num_shared_experts": 1, "num_dense_layers": 1, "router_score_function": "sigmoid", "router_selection_bias": True,
    "router_scaling_factor": 2.5, "qk_norm": "per_head", "norm_eps": 1e-6,
}  # fmt: skip

# The published model (arXiv 2601.09200) without its extra norm, which only its own class has.
DEEPSEEK_LIKE = {
    "attention": "mla", "vocab_size": 163840, "hidden_size": 7168, "num_layers": 61, "num_attention_heads": 64,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "dense_ffn_size": 18432, "num_experts": 192, "experts_per_token": 8, "expert_ffn_size": 2048,
    "num_shared_experts": 1, "num_dense_layers": 1, "num_expert_groups": 8, "expert_groups_per_token": 4,
    "router_score_function": "sigmoid", "router_selection_bias": True, "router_scaling_factor": 2.5,
}  # fmt: skip


def training_plan(model: dict[str, Any] | Architecture, **changes: Any) -> TrainingPlan:
    """A plan for ``model``; ``changes`` replace keys of the plan."""
    architecture = model if isinstance(model, Architecture) else Architecture.model_validate(model)
    values: dict[str, Any] = {
        "name": "test", "question": "a test", "model": architecture, "tokens": 1_000_000, "sequence_length": 128,
        "batch_tokens": 128 * 64, "optimizer": {"learning_rate": 4e-4, "source": "test"},
        "schedule": {"warmup_tokens": 50_000, "decay_tokens": 200_000},
        "tokenizer": {"vocab_size": architecture.vocab_size, "source": "test"},
        "prediction": {"quantity": "loss", "unit": "nats per token", "value": 3.0, "low": 2.9, "high": 3.1,
                       "interval": "test", "law": "test", "source": "test"},
        "extrapolation": {"decades_in_train_flops": 0.0}, "provenance": {"tool_version": "0"},
    }  # fmt: skip
    values |= changes
    flops = architecture.flops_per_token(values["sequence_length"])
    spent = float(flops) * values["tokens"]
    values["budget"] = {"train_flops": spent, "six_n_d": spent, "flops_per_token": flops}
    return TrainingPlan.model_validate(values)
