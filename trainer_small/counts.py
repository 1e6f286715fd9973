"""How parameters and FLOPs are counted: plain arithmetic over sizes, for one model or for a column of many.

A size is a whole number or a NumPy array of them; the closed choices (attention kind, norms, biases, ties) are the same
for every model of a column. Norms on queries, keys and MLA latents count as attention; router selection biases are
buffers and are not counted.
"""

from typing import Any, Protocol


class Sizes(Protocol):
    """What is counted: an ``Architecture``, or columns of many (``scaling.planner.shapes.ShapeTable``)."""

    vocab_size: Any
    hidden_size: Any
    num_layers: Any
    num_attention_heads: Any
    num_key_value_heads: Any
    head_dim: Any
    tied_embeddings: bool
    attention: Any
    q_lora_rank: Any
    kv_lora_rank: Any
    qk_nope_head_dim: Any
    qk_rope_head_dim: Any
    v_head_dim: Any
    qk_norm: Any
    attention_bias: bool
    attention_output_bias: bool
    attention_sinks: bool
    dense_ffn_size: Any
    dense_ffn_bias: bool
    num_experts: Any
    experts_per_token: Any
    num_shared_experts: Any
    expert_ffn_size: Any
    shared_expert_ffn_size: Any
    shared_expert_gate: bool
    expert_bias: bool
    router_bias: bool
    moe_output_norm: bool

    @property
    def num_moe_layers(self) -> Any: ...


def params_of_layer(of: Sizes, *, moe: bool) -> dict[str, Any]:
    """Trainable parameters of one layer by role; a layer without experts has a dense FFN instead."""
    d = of.hidden_size
    both = {"attention": _attention_params(of), "norm": 2 * d}
    if not moe:
        return both | {"dense_mlp": _ffn_params(of, of.dense_ffn_size, of.dense_ffn_bias)}
    return both | {
        "norm": (2 + of.moe_output_norm) * d,
        "router": of.num_experts * (d + of.router_bias),
        "routed_experts": of.num_experts * _expert_params(of),
        "shared_experts": _shared_params(of),
        "shared_expert_gate": d * of.shared_expert_gate,
    }


def params_by_role(of: Sizes) -> dict[str, Any]:
    """Trainable parameters of the whole model by role; tied matrices are counted once, under ``embedding``."""
    table = of.vocab_size * of.hidden_size
    dense, moe = params_of_layer(of, moe=False), params_of_layer(of, moe=True)
    num_moe, num_dense = of.num_moe_layers, of.num_layers - of.num_moe_layers
    return {
        "embedding": table,
        "lm_head": 0 * table if of.tied_embeddings else table,
        "attention": of.num_layers * dense["attention"],
        "norm": num_dense * dense["norm"] + num_moe * moe["norm"] + of.hidden_size,
        "dense_mlp": num_dense * dense["dense_mlp"],
        "router": num_moe * moe["router"],
        "routed_experts": num_moe * moe["routed_experts"],
        "shared_experts": num_moe * (moe["shared_experts"] + moe["shared_expert_gate"]),
    }


def unvisited_params(of: Sizes) -> Any:
    """Parameters of the experts that one token does not visit, in all layers."""
    return of.num_moe_layers * (of.num_experts - of.experts_per_token) * _expert_params(of)


def matmul_weights_of_layer(of: Sizes, *, moe: bool) -> dict[str, Any]:
    """Entries of the weight matrices that one token passes in one layer, by role."""
    d = of.hidden_size
    if not moe:
        return {"attention": attention_weights(of), "dense_mlp": 3 * d * of.dense_ffn_size}
    return {
        "attention": attention_weights(of),
        "router": d * of.num_experts,
        "routed_experts": 3 * d * of.expert_ffn_size * of.experts_per_token,
        "shared_experts": _shared_weights(of) + d * of.shared_expert_gate,
    }


def forward_matmul_flops_per_token(of: Sizes) -> Any:
    """2 x multiply-adds of all weight matrices a token passes: head and router in, embedding look-up out."""
    dense = sum(matmul_weights_of_layer(of, moe=False).values())
    moe = sum(matmul_weights_of_layer(of, moe=True).values())
    layers = (of.num_layers - of.num_moe_layers) * dense + of.num_moe_layers * moe
    return 2 * (layers + of.vocab_size * of.hidden_size)


def attention_flops_of_layer(of: Sizes) -> Any:
    """Scores and value products of one layer for one query and one key, no causal discount."""
    latent = of.attention == "mla"
    width = of.qk_nope_head_dim + of.qk_rope_head_dim + of.v_head_dim if latent else 2 * of.head_dim
    return 2 * of.num_attention_heads * width


def flops_per_token(of: Sizes, sequence_length: int, *, causal: bool = True) -> Any:
    """Training FLOPs of one token: 3 x forward matmuls, attention and head in; half the attention when causal."""
    attention = of.num_layers * attention_flops_of_layer(of) * sequence_length
    if causal:
        attention //= 2
    return 3 * (forward_matmul_flops_per_token(of) + attention)


def attention_weights(of: Sizes) -> Any:
    """Entries of one layer's attention matrices."""
    d, heads = of.hidden_size, of.num_attention_heads
    if of.attention == "mla":
        qk = of.qk_nope_head_dim + of.qk_rope_head_dim
        q = d * heads * qk if of.q_lora_rank is None else of.q_lora_rank * (d + heads * qk)
        kv_down = d * (of.kv_lora_rank + of.qk_rope_head_dim)
        kv_up = of.kv_lora_rank * heads * (of.qk_nope_head_dim + of.v_head_dim)
        return q + kv_down + kv_up + heads * of.v_head_dim * d
    return d * of.head_dim * (2 * heads + 2 * of.num_key_value_heads)


def _attention_params(of: Sizes) -> Any:
    d, heads = of.hidden_size, of.num_attention_heads
    if of.attention == "mla":
        kv_down = of.kv_lora_rank + of.qk_rope_head_dim
        norms = of.kv_lora_rank + (of.q_lora_rank or 0)
        biases = (kv_down + (of.q_lora_rank or 0)) * of.attention_bias
        return attention_weights(of) + norms + biases + d * of.attention_output_bias
    q, kv = heads * of.head_dim, of.num_key_value_heads * of.head_dim
    norms = {"none": 0, "per_head": 2 * of.head_dim, "full_width": q + kv}[of.qk_norm]
    biases = (q + 2 * kv) * of.attention_bias + d * of.attention_output_bias
    return attention_weights(of) + norms + biases + heads * of.attention_sinks


def _ffn_params(of: Sizes, ffn_size: Any, bias: bool) -> Any:
    """One SwiGLU block: gate, up and down."""
    return 3 * of.hidden_size * ffn_size + (2 * ffn_size + of.hidden_size) * bias


def _expert_params(of: Sizes) -> Any:
    return _ffn_params(of, of.expert_ffn_size, of.expert_bias)


def _shared_weights(of: Sizes) -> Any:
    return 3 * of.hidden_size * of.num_shared_experts * of.shared_expert_ffn_size


def _shared_params(of: Sizes) -> Any:
    """The shared experts of a layer are one FFN, so it has one output bias."""
    width = of.num_shared_experts * of.shared_expert_ffn_size
    biased = of.dense_ffn_bias * (of.num_shared_experts > 0)
    return _shared_weights(of) + (2 * width + of.hidden_size) * biased


def multi_token_params(of: Sizes) -> Any:
    """Trainable parameters of one multi-token-prediction module: a layer, the matrix before it and three norms."""
    d = of.hidden_size
    return sum(params_of_layer(of, moe=of.num_experts > 0).values()) + 2 * d * d + 3 * d


def multi_token_flops_per_token(of: Sizes, sequence_length: int, *, causal: bool = True) -> Any:
    """Training FLOPs of one token in one multi-token-prediction module, the head in."""
    d = of.hidden_size
    weights = sum(matmul_weights_of_layer(of, moe=of.num_experts > 0).values()) + 2 * d * d + of.vocab_size * d
    attention = attention_flops_of_layer(of) * sequence_length
    return 3 * (2 * weights + (attention // 2 if causal else attention))
