"""What a run needs in memory, roughly, from its shape alone: for tables of hundreds of runs. No torch here.

``footprint`` predicts one run's peak closely, in about a second.
"""

from trainer_small.config import RunSpec

_STATE_BYTES = 16
"""Of a parameter in float32: itself, its gradient, and AdamW's two moments."""
_LOSS_CHUNK_BYTES = 2**25
"""Of the logits, which are never held for all tokens at once."""


def run_memory_bytes(run: RunSpec) -> int:
    """Parameters, gradients, optimizer state and the activations of one micro-batch, in bytes.

    Activations are what the backward pass needs of every layer: the residual stream and its norms, queries, keys,
    values and attention output, and gate, up and product of every FFN or expert that a token passes through.
    """
    architecture, training = run.architecture, run.training
    tokens = training.micro_batch_tokens or training.batch_tokens
    element = 2 if run.dtype == "bfloat16" else 4
    heads = architecture.num_attention_heads + 2 * architecture.num_key_value_heads
    head_dim = architecture.head_dim or architecture.qk_nope_head_dim + architecture.qk_rope_head_dim
    attention = 2 * heads * head_dim + architecture.num_attention_heads * head_dim
    moe = architecture.num_moe_layers
    ffn = (architecture.num_layers - moe) * 4 * architecture.dense_ffn_size
    visited = architecture.experts_per_token + architecture.num_shared_experts
    ffn += moe * visited * (4 * architecture.expert_ffn_size + 3 * architecture.hidden_size)
    layers = architecture.num_layers * (6 * architecture.hidden_size + attention) + ffn
    return _STATE_BYTES * architecture.params_total + tokens * element * layers + _LOSS_CHUNK_BYTES
