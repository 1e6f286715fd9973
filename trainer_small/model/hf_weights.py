"""Weights to and from the names that Hugging Face checkpoints use, both ways and without loss.

The names are those of published checkpoints (one matrix an expert), which transformers, vLLM and others read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fits.errors import UserError
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class _Piece:
    """One tensor of theirs as a part of one of ours."""

    theirs: str
    ours: str
    rows: Tensor | slice = field(default_factory=lambda: slice(None))
    """Rows of our matrix."""
    expert: int | None = None
    """First index of our stacked tensor."""

    def of(self, tensor: Tensor) -> Tensor:
        return (tensor if self.expert is None else tensor[self.expert])[self.rows]


@dataclass(frozen=True)
class _Names:
    """Where model types differ."""

    moe: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_experts"


_NAMES = {
    "mixtral": _Names(moe="block_sparse_moe", gate="w1", up="w3", down="w2"),
    "qwen2_moe": _Names(shared="shared_expert"),
}
_INTERLEAVED = ("deepseek_v2", "deepseek_v3", "axk1")
"""Model types whose rotary pairs stand next to each other."""


def to_hugging_face(weights: Mapping[str, Tensor], architecture: Architecture, model_type: str) -> dict[str, Tensor]:
    """The state of ``Model`` under the names of a checkpoint of ``model_type``.

    Args:
        model_type: as in the config.json that goes with it, which must describe the same architecture.
    """
    return {
        piece.theirs: piece.of(weights[piece.ours]).clone().contiguous()
        for piece in _pieces(architecture, model_type)
        if piece.ours in weights
    }


def from_hugging_face(weights: Mapping[str, Tensor], architecture: Architecture, model_type: str) -> dict[str, Tensor]:
    """The inverse of ``to_hugging_face``, for ``Model.load_state_dict``.

    Raises:
        UserError: a weight is missing, is left over or has another shape.
    """
    from trainer_small.model.model import Model

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Model(architecture).state_dict().items()}
    ours: dict[str, Tensor] = {}
    used = set()
    for piece in _pieces(architecture, model_type):
        if piece.ours not in shapes:
            continue
        if piece.theirs not in weights:
            raise UserError(f"the checkpoint has no weight '{piece.theirs}', which a {model_type} of this shape needs.")
        given = weights[piece.theirs]
        target = ours.setdefault(piece.ours, torch.empty(shapes[piece.ours], dtype=given.dtype))
        part = piece.of(target)
        if part.shape != given.shape:
            raise UserError(
                f"weight '{piece.theirs}' has shape {list(given.shape)}; the architecture says {list(part.shape)}."
            )
        if piece.expert is None:
            target[piece.rows] = given
        else:
            target[piece.expert][piece.rows] = given
        used.add(piece.theirs)
    if extra := sorted(weights.keys() - used - {"lm_head.weight"}):
        raise UserError(f"the checkpoint has a weight '{extra[0]}' that the architecture does not.")
    return ours


def _pieces(architecture: Architecture, model_type: str) -> Iterator[_Piece]:
    yield _Piece("model.embed_tokens.weight", "embedding.weight")
    yield _Piece("model.norm.weight", "norm.weight")
    yield _Piece("lm_head.weight", "lm_head.weight")
    for layer in range(architecture.num_layers + architecture.num_nextn_predict_layers):
        theirs, ours = f"model.layers.{layer}.", f"blocks.{layer}."
        if layer >= architecture.num_layers:
            yield from _multi_token(theirs, f"multi_token.{layer}.")
            ours = f"multi_token.{layer}.block."
        yield _Piece(f"{theirs}input_layernorm.weight", f"{ours}attention_norm.weight")
        yield _Piece(f"{theirs}post_attention_layernorm.weight", f"{ours}ffn_norm.weight")
        attention = _latent_attention if architecture.attention == "mla" else _grouped_query_attention
        yield from attention(architecture, f"{theirs}self_attn.", f"{ours}attention.", model_type in _INTERLEAVED)
        if architecture.is_moe_layer(layer):
            yield from _experts(architecture, theirs, f"{ours}ffn.", _NAMES.get(model_type, _Names()))
        else:
            yield from _feed_forward(f"{theirs}mlp.", f"{ours}ffn.", architecture.dense_ffn_size)


def _multi_token(theirs: str, ours: str) -> Iterator[_Piece]:
    """Released checkpoints hold the embedding and the head again, where readers look for them."""
    yield _Piece(f"{theirs}enorm.weight", f"{ours}embedding_norm.weight")
    yield _Piece(f"{theirs}hnorm.weight", f"{ours}hidden_norm.weight")
    yield _Piece(f"{theirs}eh_proj.weight", f"{ours}projection.weight")
    yield _Piece(f"{theirs}shared_head.norm.weight", f"{ours}norm.weight")
    yield _Piece(f"{theirs}embed_tokens.weight", "embedding.weight")
    yield _Piece(f"{theirs}shared_head.head.weight", "lm_head.weight")


def _grouped_query_attention(a: Architecture, theirs: str, ours: str, interleaved: bool) -> Iterator[_Piece]:
    q, kv = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    rows = {"q_proj": slice(0, q), "k_proj": slice(q, q + kv), "v_proj": slice(q + kv, q + 2 * kv)}
    for name, part in rows.items():
        for kind in ("weight", "bias"):
            yield _Piece(f"{theirs}{name}.{kind}", f"{ours}qkv_proj.{kind}", part)
    for kind in ("weight", "bias"):
        yield _Piece(f"{theirs}o_proj.{kind}", f"{ours}o_proj.{kind}")
    for name in ("q_norm", "k_norm"):
        yield _Piece(f"{theirs}{name}.weight", f"{ours}{name}.weight")


def _latent_attention(a: Architecture, theirs: str, ours: str, interleaved: bool) -> Iterator[_Piece]:
    head = a.qk_nope_head_dim + a.qk_rope_head_dim
    heads = torch.arange(a.num_attention_heads).unsqueeze(1) * head
    q_rows = (heads + _rotary_last(a.qk_nope_head_dim, a.qk_rope_head_dim, interleaved)).flatten()
    kv_rows = _rotary_last(a.kv_lora_rank, a.qk_rope_head_dim, interleaved)
    yield _Piece(f"{theirs}q_proj.weight", f"{ours}q_proj.weight", q_rows)
    yield _Piece(f"{theirs}q_b_proj.weight", f"{ours}q_b_proj.weight", q_rows)
    for kind in ("weight", "bias"):
        yield _Piece(f"{theirs}q_a_proj.{kind}", f"{ours}q_a_proj.{kind}")
        yield _Piece(f"{theirs}kv_a_proj_with_mqa.{kind}", f"{ours}kv_a_proj.{kind}", kv_rows)
    yield _Piece(f"{theirs}q_a_layernorm.weight", f"{ours}q_a_norm.weight")
    yield _Piece(f"{theirs}kv_a_layernorm.weight", f"{ours}kv_a_norm.weight")
    for name in ("kv_b_proj.weight", "o_proj.weight", "o_proj.bias"):
        yield _Piece(f"{theirs}{name}", f"{ours}{name}")


def _rotary_last(before: int, rotary: int, interleaved: bool) -> Tensor:
    """Our rows in their order: our rotary part has halves, theirs may have pairs."""
    turning = torch.arange(rotary)
    if interleaved:
        turning = turning.view(2, -1).T.flatten()
    return torch.cat((torch.arange(before), before + turning))


def _experts(a: Architecture, theirs: str, ours: str, names: _Names) -> Iterator[_Piece]:
    block = f"{theirs}{names.moe}."
    yield _Piece(f"{block}gate.weight", f"{ours}router.weight")
    yield _Piece(f"{block}gate.bias", f"{ours}router.bias")
    yield _Piece(f"{block}gate.e_score_correction_bias", f"{ours}router.selection_bias")
    size = a.expert_ffn_size
    for expert in range(a.num_experts):
        one = f"{block}experts.{expert}."
        yield _Piece(f"{one}{names.gate}.weight", f"{ours}gate_up_proj", slice(0, size), expert)
        yield _Piece(f"{one}{names.up}.weight", f"{ours}gate_up_proj", slice(size, 2 * size), expert)
        yield _Piece(f"{one}{names.down}.weight", f"{ours}down_proj", expert=expert)
    shared = a.num_shared_experts * a.shared_expert_ffn_size
    yield from _feed_forward(f"{block}{names.shared}.", f"{ours}shared_experts.", shared)
    yield _Piece(f"{block}shared_expert_gate.weight", f"{ours}shared_gate.weight")
    yield _Piece(f"{theirs}post_mlp_layernorm.weight", f"{ours}output_norm.weight")


def _feed_forward(theirs: str, ours: str, size: int) -> Iterator[_Piece]:
    for kind in ("weight", "bias"):
        yield _Piece(f"{theirs}gate_proj.{kind}", f"{ours}gate_up_proj.{kind}", slice(0, size))
        yield _Piece(f"{theirs}up_proj.{kind}", f"{ours}gate_up_proj.{kind}", slice(size, 2 * size))
        yield _Piece(f"{theirs}down_proj.{kind}", f"{ours}down_proj.{kind}")
