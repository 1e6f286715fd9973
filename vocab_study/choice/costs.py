"""What a model pays at a vocabulary size, in training, in memory and in use."""

import math

from fits.schema import Schema
from trainer_small.architecture import Architecture
from vocab_study.choice.exact_curves import PADDING, TextCurve

LOGITS_TOKENS = 8192
FUSED_ENTRIES = 2**25
"""Logits that a loss in chunks holds at a time: the chunk of ``trainer_small.steps.loss`` on a GPU."""


class Cost(Schema):
    """One vocabulary size; the figures of text are empty where no study covers the size."""

    vocab_size: int
    head_share_of_active: float
    """Output matrix over the parameters that a token multiplies with, V d / (N + V d)."""
    vocabulary_params: int
    """Input and output matrix, or the one when they are tied."""
    logits_bytes: int
    """fp32 logits of 8,192 tokens in a plain loss."""
    fused_logits_bytes: int
    """The same in a loss that goes through the head in chunks."""
    padded_size: int
    """The next multiple of 128 x tensor parallel."""
    tokens_per_byte: float | None = None
    flops_per_byte: float | None = None
    """Training: 6 (N + V d) tokens/byte; attention over the context left out."""
    compute_above_best: float | None = None
    """Share by which that exceeds the least of all sizes."""
    decode_flops_per_character: float | None = None
    """2 (N + V d) tokens/character."""
    kv_bytes_per_character: float | None = None


def kv_bytes_per_token(architecture: Architecture, *, bytes_per_value: int = 2) -> int:
    """Key-value cache of one token over all layers: keys and values, or the shared latent of MLA."""
    if architecture.attention == "mla":
        width = architecture.kv_lora_rank + architecture.qk_rope_head_dim
    else:
        width = 2 * architecture.num_key_value_heads * architecture.head_dim
    return architecture.num_layers * width * bytes_per_value


def cost_at(
    vocab_size: int,
    params: float,
    hidden_size: int,
    *,
    text: TextCurve | None = None,
    tied_embeddings: bool = False,
    tensor_parallel: int = 1,
    kv_bytes_per_token: float | None = None,
) -> Cost:
    """All costs of one size.

    Args:
        vocab_size: V.
        params: N, parameters outside the vocabulary that a token passes.
        hidden_size: d.
        text: the curve of the text to be paid for.
        tied_embeddings: one matrix for input and output.
        tensor_parallel: ways in which the vocabulary matrices are split.
        kv_bytes_per_token: of the key-value cache, all layers.
    """
    matrix = vocab_size * hidden_size
    active = params + matrix
    step = PADDING * tensor_parallel
    cost = Cost(
        vocab_size=vocab_size,
        head_share_of_active=matrix / active,
        vocabulary_params=matrix if tied_embeddings else 2 * matrix,
        logits_bytes=4 * vocab_size * LOGITS_TOKENS,
        fused_logits_bytes=4 * min(vocab_size * LOGITS_TOKENS, FUSED_ENTRIES),
        padded_size=math.ceil(vocab_size / step) * step,
    )
    tokens = None if text is None else text.at(vocab_size)
    if text is None or tokens is None:
        return cost
    per_character = tokens / text.characters_per_byte
    return cost.model_copy(
        update={
            "tokens_per_byte": tokens,
            "flops_per_byte": 6 * active * tokens,
            "compute_above_best": active * tokens / float(text.compute(params, hidden_size).min()) - 1,
            "decode_flops_per_character": 2 * active * per_character,
            "kv_bytes_per_character": None if kv_bytes_per_token is None else kv_bytes_per_token * per_character,
        }
    )
