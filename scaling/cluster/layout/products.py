"""The matrix products of a layer on one GPU by their sizes, and the seconds they take."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from scaling.cluster.layout.assumptions import Speeds
from scaling.cluster.layout.degrees import Degrees, tokens_of
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class Product:
    """``count`` products of a [rows, inner] by an [inner, outer] matrix; sizes are numbers or arrays [layouts]."""

    role: Literal["plain", "latent_up", "expert"]
    rows: Any
    inner: Any
    outer: Any
    count: Any = 1

    @property
    def flops(self) -> Any:
        return 2 * self.count * self.rows * self.inner * self.outer

    def seconds(self, speeds: Speeds) -> Any:
        """Multiplying, and moving both factors and the result once: what makes small and thin products slow."""
        fast = speeds.grouped if self.role == "expert" else speeds.matmul
        entries = self.count * (self.rows * self.inner + self.inner * self.outer + self.rows * self.outer)
        return self.flops / fast + speeds.element * entries / speeds.memory


def products_of_layer(model: Architecture, layout: Degrees, sequence_length: int, *, moe: bool) -> Iterator[Product]:
    """The forward pass of one layer for one micro-batch; the backward has two products of the same sizes for each."""
    tokens = tokens_of(layout, sequence_length)
    split = tokens / layout.tensor
    yield from _attention(model, layout, tokens, split)
    if not moe:
        yield from _ffn(model, layout, tokens, model.dense_ffn_size)
        return
    yield Product("plain", split, model.hidden_size, model.num_experts)
    if model.num_shared_experts:
        yield from _ffn(model, layout, tokens, model.num_shared_experts * model.shared_expert_ffn_size)
    if model.shared_expert_gate:
        yield Product("plain", split, model.hidden_size, 1)
    held = model.num_experts / layout.expert
    # The tokens of all ranks of the group, a slice of each expert.
    rows = split * layout.expert_tensor * model.experts_per_token / held
    width = model.expert_ffn_size / layout.expert_tensor
    yield Product("expert", rows, model.hidden_size, 2 * width, held)
    yield Product("expert", rows, width, model.hidden_size, held)


def head_product(model: Architecture, layout: Degrees, sequence_length: int) -> Product:
    """The output head."""
    tokens = tokens_of(layout, sequence_length)
    return Product("plain", tokens, model.hidden_size, model.vocab_size / layout.tensor)


def _attention(model: Architecture, layout: Degrees, tokens: Any, split: Any) -> Iterator[Product]:
    d, heads = model.hidden_size, model.num_attention_heads / layout.tensor
    if model.attention == "gqa":
        projected = (heads + 2 * model.num_key_value_heads / layout.tensor) * model.head_dim
        yield Product("plain", tokens, d, projected)
        yield Product("plain", tokens, heads * model.head_dim, d)
        return
    query = heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
    if model.q_lora_rank:
        yield Product("plain", split, d, model.q_lora_rank)
        yield Product("latent_up", tokens, model.q_lora_rank, query)
    else:
        yield Product("plain", tokens, d, query)
    yield Product("plain", split, d, model.kv_lora_rank + model.qk_rope_head_dim)
    yield Product("latent_up", tokens, model.kv_lora_rank, heads * (model.qk_nope_head_dim + model.v_head_dim))
    yield Product("plain", tokens, heads * model.v_head_dim, d)


def _ffn(model: Architecture, layout: Degrees, tokens: Any, width: int) -> Iterator[Product]:
    yield Product("plain", tokens, model.hidden_size, 2 * width / layout.tensor)
    yield Product("plain", tokens, width / layout.tensor, model.hidden_size)
