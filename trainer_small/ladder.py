"""The ladder of sizes: how the shape of a model follows from its width, the same for proxies and for the big run."""

from typing import Literal

from pydantic import PositiveFloat

from fits.schema import Count, Schema
from trainer_small.architecture import Architecture

# num_layers = 3 (hidden_size / 32) ** 0.556 runs from small proxies (32 wide, 3 layers) to the published large MoE
# models (DeepSeek-V3, arXiv 2412.19437, and A.X K1, arXiv 2601.09200: 7168 wide, 61 layers).
_REFERENCE_WIDTH, _REFERENCE_LAYERS, _DEPTH_EXPONENT = 32, 3, 0.556


class Experts(Schema):
    """One choice of routing: how many experts there are, how many a token visits, and how fine they are.

    A dense model is the case ``num_experts = 0``; its FFN counts as the one expert.
    """

    num_experts: Count
    experts_per_token: Count
    num_shared_experts: Count
    granularity: PositiveFloat
    """G = 2 hidden_size / expert_ffn_size."""

    @property
    def activation_ratio(self) -> float:
        """A = (experts_per_token + shared) / (num_experts + shared); 1 for a dense model."""
        if not self.num_experts:
            return 1.0
        return (self.experts_per_token + self.num_shared_experts) / (self.num_experts + self.num_shared_experts)


class Family(Schema):
    """What models of all sizes share."""

    attention: Literal["gqa", "mla"] = "gqa"
    num_dense_layers: Count = 1
    tied_embeddings: bool = False
    qk_norm: Literal["none", "per_head"] = "none"
    router_score_function: Literal["softmax", "sigmoid"] = "sigmoid"
    router_selection_bias: bool = True
    moe_output_norm: bool = False

    def shape(self, hidden_size: int, num_layers: int, experts: Experts, vocab_size: int) -> Architecture:
        """The architecture of one size; the FFN of a dense layer is as wide as the experts one token visits."""
        # 128 fills a tensor-core tile of a large model; proxies need the finer step to keep their granularity.
        multiple = 128 if hidden_size >= 2048 else 8
        expert_ffn_size = max(round(2 * hidden_size / experts.granularity / multiple), 1) * multiple
        if not experts.num_experts:
            return Architecture.model_validate(
                {
                    "vocab_size": vocab_size,
                    "hidden_size": hidden_size,
                    "num_layers": num_layers,
                    "dense_ffn_size": expert_ffn_size,
                    "tied_embeddings": self.tied_embeddings,
                    "qk_norm": self.qk_norm,
                    **self._attention(hidden_size),
                }
            )
        return Architecture.model_validate(
            {
                "vocab_size": vocab_size,
                "hidden_size": hidden_size,
                "num_layers": num_layers,
                "num_experts": experts.num_experts,
                "experts_per_token": experts.experts_per_token,
                "num_shared_experts": experts.num_shared_experts,
                "expert_ffn_size": expert_ffn_size,
                "dense_ffn_size": (experts.experts_per_token + experts.num_shared_experts) * expert_ffn_size,
                "num_dense_layers": self.num_dense_layers,
                "tied_embeddings": self.tied_embeddings,
                "qk_norm": self.qk_norm,
                "router_score_function": self.router_score_function,
                "router_selection_bias": self.router_selection_bias,
                # The output keeps its scale over k, as Kimi K2 (k = 8, 2.827) has it.
                "router_scaling_factor": round(experts.experts_per_token**0.5, 3),
                "moe_output_norm": self.moe_output_norm,
                **self._attention(hidden_size),
            }
        )

    def _attention(self, hidden_size: int) -> dict[str, int | str]:
        heads = hidden_size // usual_head_dim(hidden_size)
        if self.attention == "mla":
            # DeepSeek-V3's ranks (arXiv 2412.19437, section 4.2), for the widths they were made for.
            ranks = {"q_lora_rank": 1536, "kv_lora_rank": 512}
            head = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
            return {"attention": "mla", "num_attention_heads": heads, **ranks, **head}
        key_value_heads = heads if hidden_size < 1024 else _key_value_heads(heads)
        return {
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "head_dim": usual_head_dim(hidden_size),
        }


def usual_depth(hidden_size: int) -> float:
    """Layers that go with a width, between small proxies and the published large models."""
    return _REFERENCE_LAYERS * (hidden_size / _REFERENCE_WIDTH) ** _DEPTH_EXPONENT


def usual_head_dim(hidden_size: int) -> int:
    """16 for the smallest proxies, 32 and 64 in the middle, 128 from 1024 up."""
    for largest, head_dim in ((127, 16), (255, 32), (1023, 64)):
        if hidden_size <= largest:
            return head_dim
    return 128


def _key_value_heads(heads: int) -> int:
    """8 when it divides the heads, else the largest divisor below."""
    return next(count for count in range(min(8, heads), 0, -1) if heads % count == 0)
