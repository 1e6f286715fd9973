"""What one layer keeps of a micro-batch for its backward pass, in elements by role, for one GPU."""

from dataclasses import dataclass

from scaling.plan import Layout
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class Kept:
    """Elements of one micro-batch on one GPU; 2 bytes each unless a field says otherwise.

    ``input`` is what full recomputation keeps. ``matmul_inputs`` may be kept in fp8.
    """

    input: float
    norms: float
    """Outputs of norms, which selective recomputation computes again."""
    attention: float
    """Queries, keys, values and the attention's output; with MLA the latents too."""
    latent_up: float
    """Queries, keys and values of MLA, which selective recomputation computes again from the latents."""
    ffn: float
    """Gate, up and their product in dense FFNs and shared experts."""
    dispatched: float
    """Inputs of the experts, copied for each expert a token visits."""
    experts: float
    """Gate and up of the experts."""
    expert_products: float
    """Products of gate and up, which selective recomputation computes again."""
    router_bytes: float
    """Scores and probabilities in fp32: bytes."""


def kept_by_layer(model: Architecture, layout: Layout, sequence_length: int, *, moe: bool) -> Kept:
    """What flash attention and fused norms leave to keep (arXiv 2205.05198, section 4, extended to experts and MLA).

    Tokens are split over context parallelism, and over tensor parallelism too outside attention and FFN (sequence
    parallelism); each token's copies go to ``experts_per_token`` experts, evenly.
    """
    tokens = sequence_length * layout.micro_batch_size / layout.context
    split = tokens / layout.tensor  # sequence parallel
    d, heads = model.hidden_size, model.num_attention_heads
    if model.attention == "mla":
        qk = model.qk_nope_head_dim + model.qk_rope_head_dim
        latents = 2 * (model.q_lora_rank or 0) + 2 * model.kv_lora_rank + model.qk_rope_head_dim
        latent_up = split * heads * (2 * qk + model.v_head_dim)
        attention = tokens * latents / layout.tensor + split * heads * model.v_head_dim
    else:
        latent_up = 0.0
        attention = split * model.head_dim * (2 * heads + 2 * model.num_key_value_heads)
    ffn = dispatched = experts = products = router = 0.0
    if moe:
        copies = split * model.experts_per_token
        # With expert tensor parallelism a rank sees the tokens of all its group and a slice of each expert.
        dispatched = copies * layout.expert_tensor * d
        experts = copies * 2 * model.expert_ffn_size
        products = copies * model.expert_ffn_size
        ffn = split * 3 * model.num_shared_experts * model.shared_expert_ffn_size
        router = split * 2 * 4 * model.num_experts
    else:
        ffn = split * 3 * model.dense_ffn_size
    return Kept(
        input=split * d,
        norms=2 * split * d,
        attention=attention + split * d,  # and the residual before the second norm
        latent_up=latent_up,
        ffn=ffn,
        dispatched=dispatched,
        experts=experts,
        expert_products=products,
        router_bytes=router,
    )


def kept_bytes(kept: Kept, layout: Layout, *, fp8: bool, imbalance: float = 1.0) -> float:
    """Bytes kept of one micro-batch by one layer under the layout's recomputation; routed parts x ``imbalance``."""
    if layout.recompute == "full":
        return 2 * kept.input
    saved = 1.0 if fp8 else 2.0  # inputs of matrix products
    routed = saved * kept.dispatched + 2 * kept.experts
    total = 2 * kept.input + 2 * kept.attention + 2 * kept.ffn + kept.router_bytes
    if layout.recompute == "none":
        total += saved * kept.norms + 2 * kept.latent_up
        routed += saved * kept.expert_products
    return total + imbalance * routed
