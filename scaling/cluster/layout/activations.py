"""What one layer keeps of a micro-batch for its backward pass, in elements by role, for one GPU."""

from dataclasses import dataclass
from typing import Any, Literal

from scaling.cluster.layout.degrees import Degrees, tokens_of
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class Kept:
    """Elements of one micro-batch on one GPU: numbers, or arrays of shape [layouts]."""

    input: Any
    """What full recomputation keeps."""
    norms: Any
    """Outputs of norms, which selective recomputation computes again."""
    attention: Any
    """Queries, keys, values and the attention's output; with MLA the latents too; and the second residual."""
    latent_up: Any
    """Queries, keys and values of MLA, which selective recomputation computes again from the latents."""
    ffn: Any
    """Gate and up in dense FFNs and shared experts."""
    ffn_products: Any
    """Their products, which selective recomputation computes again."""
    dispatched: Any
    """Inputs of the experts, copied for each expert a token visits."""
    experts: Any
    """Gate and up of the experts."""
    expert_products: Any
    """Products of gate and up, which selective recomputation computes again."""
    router_bytes: Any
    """Scores and probabilities in fp32: bytes."""


def kept_by_layer(model: Architecture, layout: Degrees, sequence_length: int, *, moe: bool) -> Kept:
    """What flash attention and fused norms leave to keep (arXiv 2205.05198, section 4, extended to experts and MLA).

    Tokens are split over context parallelism, and over tensor parallelism too outside attention and FFN (sequence
    parallelism); each token's copies go to ``experts_per_token`` experts, evenly. For a dense layer with as many key
    heads as query heads this is the paper's 34 s b h bytes less 2 for the dropout masks that no one keeps now: 16
    elements, of which 8 are inside an FFN of 8/3 h.
    """
    tokens = tokens_of(layout, sequence_length)
    split = tokens / layout.tensor
    d, heads = model.hidden_size, model.num_attention_heads
    latent_up = 0.0 * split
    if model.attention == "mla":
        qk = model.qk_nope_head_dim + model.qk_rope_head_dim
        # Each latent before and after its norm.
        latents = 2 * (model.q_lora_rank or 0) + 2 * model.kv_lora_rank + model.qk_rope_head_dim
        latent_up = split * heads * (2 * qk + model.v_head_dim)
        attention = split * (latents + heads * model.v_head_dim)
    else:
        attention = split * model.head_dim * (2 * heads + 2 * model.num_key_value_heads)
    dispatched = experts = products = router = 0.0 * split
    if moe:
        copies = split * model.experts_per_token
        # With expert tensor parallelism a rank sees the tokens of all its group and a slice of each expert.
        dispatched = copies * layout.expert_tensor * d
        experts = copies * 2 * model.expert_ffn_size
        products = copies * model.expert_ffn_size
        router = split * 2 * 4 * model.num_experts
        width = model.num_shared_experts * model.shared_expert_ffn_size
    else:
        width = model.dense_ffn_size
    return Kept(
        input=split * d,
        norms=2 * split * d,
        attention=attention + split * d,
        latent_up=latent_up,
        ffn=split * 2 * width,
        ffn_products=split * width,
        dispatched=dispatched,
        experts=experts,
        expert_products=products,
        router_bytes=router,
    )


def kept_bytes(
    kept: Kept, recompute: Literal["none", "selective", "full"], precision: str, imbalance: float = 1.0
) -> Any:
    """Bytes kept of one micro-batch by one layer; the experts' part times ``imbalance``.

    Selective recomputation gives up what element-wise work or MLA's up-projections bring back: norms, the products of
    gate and up, and MLA's queries, keys and values. In fp8 the inputs of matrix products are kept in one byte.
    """
    element = 4.0 if precision == "fp32" else 2.0
    if recompute == "full":
        return element * kept.input
    saved = 1.0 if precision == "fp8" else element  # inputs of matrix products
    plain = element * (kept.input + kept.attention + kept.ffn) + kept.router_bytes
    routed = saved * kept.dispatched + element * kept.experts
    if recompute == "none":
        plain = plain + saved * (kept.norms + kept.ffn_products) + element * kept.latent_up
        routed = routed + saved * kept.expert_products
    return plain + imbalance * routed
