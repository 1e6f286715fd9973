"""The architecture: one plain object that gives the model, its exact counts and the exported config.

Every parameter and FLOP count in the toolkit comes from here (the arithmetic is in ``counts``). Names follow the
Hugging Face config keys.
Nothing here imports torch.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from fits.schema import Count, Schema, whole_number
from trainer_small import counts


class Architecture(Schema):
    """A decoder-only transformer, dense or mixture-of-experts.

    A dense model is the case ``num_experts = 0``. ``num_key_value_heads``, ``head_dim`` and
    ``shared_expert_ffn_size`` are filled in from the other sizes when they are left out.
    """

    vocab_size: Count
    hidden_size: Count
    num_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count = 0
    """Heads of keys and values; 0 stands for as many as ``num_attention_heads``."""
    head_dim: Count = 0
    """0 stands for ``hidden_size / num_attention_heads``."""
    tied_embeddings: bool = False

    attention: Literal["gqa", "mla"] = "gqa"
    q_lora_rank: Count | None = None
    """MLA only; ``None`` projects queries directly."""
    kv_lora_rank: Count = 0
    qk_nope_head_dim: Count = 0
    qk_rope_head_dim: Count = 0
    v_head_dim: Count = 0
    qk_norm: Literal["none", "per_head", "full_width"] = "none"
    """RMSNorm on queries and keys: over each head (Qwen3) or over the whole projection (OLMoE)."""
    attention_bias: bool = False
    """Bias on the input projections (with MLA: on the two down-projections)."""
    attention_output_bias: bool = False
    attention_sinks: bool = False
    """One trained sink logit a head (gpt-oss)."""
    rope_theta: float = 10000.0

    dense_ffn_size: Count = 0
    """FFN width of the layers without experts."""
    dense_ffn_bias: bool = False
    """Biases in the FFN of those layers and in the shared experts, which are one such FFN."""

    num_experts: Count = 0
    """Routed experts in a layer; 0 makes the model dense."""
    experts_per_token: Count = 0
    num_shared_experts: Count = 0
    expert_ffn_size: Count = 0
    shared_expert_ffn_size: Count = 0
    """Width of one shared expert; 0 stands for ``expert_ffn_size``."""
    shared_expert_gate: bool = False
    """A trained scalar gate on the shared experts' output (Qwen2-MoE)."""
    expert_bias: bool = False
    num_dense_layers: Count = 0
    """Leading layers without experts."""
    other_dense_layers: tuple[Count, ...] = ()
    """Layers without experts after the leading ones, by index from 0."""
    router_bias: bool = False
    """A trained bias on the router's logits (gpt-oss)."""
    router_selection_bias: bool = False
    """A balancing bias that only selects (DeepSeek-V3): a buffer, not a parameter."""
    router_score_function: Literal["softmax", "sigmoid"] = "softmax"
    router_normalize: bool = True
    """Divide the chosen scores by their sum."""
    router_scaling_factor: float = 1.0
    num_expert_groups: Count = 1
    expert_groups_per_token: Count = 1
    moe_output_norm: bool = False
    """RMSNorm on the output of each MoE block (A.X K1's dual normalization)."""

    num_nextn_predict_layers: Count = 0
    """Multi-token-prediction modules (DeepSeek-V3), each a layer more in training; counted apart from the model."""

    norm_eps: float = 1e-6

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        heads, width = _count(data.get("num_attention_heads")), _count(data.get("hidden_size"))
        if not data.get("num_key_value_heads") and heads:
            data["num_key_value_heads"] = heads
        derive = not data.get("head_dim") and data.get("attention", "gqa") == "gqa"
        if derive and isinstance(heads, int) and isinstance(width, int) and heads > 0:
            if width % heads:
                raise ValueError(
                    f"num_attention_heads {heads} does not divide hidden_size {width}; "
                    "choose a divisor or give head_dim"
                )
            data["head_dim"] = width // heads
        if not data.get("shared_expert_ffn_size") and data.get("num_shared_experts"):
            data["shared_expert_ffn_size"] = data.get("expert_ffn_size", 0)
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, value in self:
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{key} is {value}; it must not be negative")
        for key in ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "num_key_value_heads"):
            _positive(self, key)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}; choose a divisor"
            )
        if self.attention == "mla":
            for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
                _positive(self, key)
            if self.q_lora_rank is not None:
                _positive(self, "q_lora_rank")
        else:
            _positive(self, "head_dim")
        if self.num_experts:
            self._check_experts()
        elif self.experts_per_token or self.num_shared_experts:
            raise ValueError("experts_per_token and num_shared_experts need num_experts above 0")
        if self.num_moe_layers < self.num_layers:
            _positive(self, "dense_ffn_size")
        return self

    def _check_experts(self) -> None:
        _positive(self, "experts_per_token")
        _positive(self, "expert_ffn_size")
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is above num_experts {self.num_experts}; lower it"
            )
        if self.num_dense_layers > self.num_layers:
            raise ValueError(
                f"num_dense_layers {self.num_dense_layers} is above num_layers {self.num_layers}; lower it"
            )
        if any(not self.num_dense_layers <= layer < self.num_layers for layer in self.other_dense_layers):
            raise ValueError(
                f"other_dense_layers {list(self.other_dense_layers)} must lie in "
                f"{self.num_dense_layers}..{self.num_layers - 1}, after the leading dense layers"
            )
        if self.num_experts % max(self.num_expert_groups, 1):
            raise ValueError(
                f"num_expert_groups {self.num_expert_groups} does not divide num_experts {self.num_experts}; "
                "choose a divisor"
            )
        if self.expert_groups_per_token > self.num_expert_groups:
            raise ValueError(
                f"expert_groups_per_token {self.expert_groups_per_token} is above "
                f"num_expert_groups {self.num_expert_groups}; lower it"
            )
        selectable = self.num_experts // max(self.num_expert_groups, 1) * self.expert_groups_per_token
        if self.experts_per_token > selectable:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is above the {selectable} experts of "
                f"{self.expert_groups_per_token} groups; lower it or allow more groups"
            )

    # Layers and ratios

    @property
    def is_moe(self) -> bool:
        return self.num_experts > 0

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) has experts."""
        return self.is_moe and layer >= self.num_dense_layers and layer not in self.other_dense_layers

    @property
    def num_moe_layers(self) -> int:
        if not self.is_moe:
            return 0
        return self.num_layers - self.num_dense_layers - len(set(self.other_dense_layers))

    @property
    def activation_ratio(self) -> float:
        """A = (experts_per_token + shared) / (num_experts + shared) (arXiv 2507.17702); 1 for a dense model."""
        if not self.is_moe:
            return 1.0
        return (self.experts_per_token + self.num_shared_experts) / (self.num_experts + self.num_shared_experts)

    @property
    def granularity(self) -> float:
        """G = 2 hidden_size / expert_ffn_size (arXiv 2507.17702); the dense FFN counts as the one expert."""
        return 2 * self.hidden_size / (self.expert_ffn_size if self.is_moe else self.dense_ffn_size)

    # Parameters

    def params_by_role(self) -> dict[str, int]:
        """Trainable parameters of the whole model by role; tied matrices are counted once, under ``embedding``.

        Norms on queries, keys and MLA latents count as attention; router selection biases are buffers
        and are not counted.
        """
        return counts.params_by_role(self)

    def params_of_layer(self, *, moe: bool) -> dict[str, int]:
        """Trainable parameters of one layer with or without experts, by role."""
        return counts.params_of_layer(self, moe=moe)

    @property
    def params_total(self) -> int:
        """All trainable parameters, tied matrices once; multi-token prediction modules are not part of the model."""
        return sum(self.params_by_role().values())

    @property
    def params_active(self) -> int:
        """Parameters one token passes through: embedding, head, router and shared experts in."""
        return self.params_total - counts.unvisited_params(self)

    @property
    def params_active_without_input_embedding(self) -> int:
        """``params_active`` less the input table, which stays when it is also the head (tied)."""
        roles = self.params_by_role()
        return self.params_active - (0 if self.tied_embeddings else roles["embedding"])

    @property
    def params_active_non_embedding(self) -> int:
        """``params_active`` less both embedding matrices."""
        roles = self.params_by_role()
        return self.params_active - roles["embedding"] - roles["lm_head"]

    @property
    def params_total_non_embedding(self) -> int:
        """``params_total`` less both embedding matrices."""
        roles = self.params_by_role()
        return self.params_total - roles["embedding"] - roles["lm_head"]

    @property
    def multi_token_params(self) -> int:
        """Trainable parameters of the multi-token-prediction modules, which no other count has in it; embedding and
        head are the model's."""
        return self.num_nextn_predict_layers * counts.multi_token_params(self)

    # FLOPs

    def multi_token_flops_per_token(self, sequence_length: int, *, causal: bool = True) -> int:
        """Training FLOPs that the multi-token-prediction modules add to ``flops_per_token``, heads in."""
        one = counts.multi_token_flops_per_token(self, sequence_length, causal=causal)
        return self.num_nextn_predict_layers * one

    @property
    def forward_matmul_flops_per_token(self) -> int:
        """2 x multiply-adds of all weight matrices a token passes: head and router in, embedding look-up out."""
        return counts.forward_matmul_flops_per_token(self)

    @property
    def forward_attention_flops_per_token_per_context_token(self) -> int:
        """Scores and value products of all layers for one query and one key, no causal discount."""
        return self.num_layers * counts.attention_flops_of_layer(self)

    def flops_per_token(self, sequence_length: int, *, causal: bool = True) -> int:
        """Training FLOPs of one token: 3 x forward matmuls, attention and head in.

        Args:
            sequence_length: tokens in a sequence.
            causal: count half the attention products (the masked half costs nothing in a fused kernel);
                ``False`` counts all. Sliding windows give no discount in either.
        """
        return counts.flops_per_token(self, sequence_length, causal=causal)


def _count(value: Any) -> Any:
    """The whole number that a file's value means, or the value itself for the field's own check to refuse."""
    try:
        return whole_number(value)
    except ValueError:
        return value


def _positive(architecture: Architecture, key: str) -> None:
    if getattr(architecture, key) <= 0:
        raise ValueError(f"{key} is {getattr(architecture, key)}; it must be above 0")
