"""Parts of the architectures that several benchmarks train."""

EXPERTS = {
    "num_experts": 16,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_ffn_size": 256,
    "router_score_function": "sigmoid",
    "router_selection_bias": True,
}
LATENT = {
    "attention": "mla",
    "q_lora_rank": 128,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
