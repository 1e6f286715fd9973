"""What serving costs: the FLOPs that a lifetime of tokens takes, and the roofline of generating one."""

from typing import Any

import numpy as np

from scaling.cluster.hardware import gpu as find_gpu
from scaling.plan import Serving
from trainer_small import counts
from trainer_small.architecture import Architecture

CONTEXT, BATCH = 8192, 256
"""Tokens before the generated one, and sequences generated at once, unless said otherwise."""
_BYTES = 2
"""bf16 weights and cache."""


def inference_flops(of: Any, tokens: float) -> Any:
    """2 x active parameters a served token, prompt or answer (arXiv 2401.00448)."""
    return 2.0 * of.params_active * tokens


def kv_bytes_per_token(of: Any) -> Any:
    """Bytes that one token of context leaves in the cache: keys and values, or MLA's latent and rotary key."""
    if of.attention == "mla":
        return of.num_layers * (of.kv_lora_rank + of.qk_rope_head_dim) * _BYTES
    return of.num_layers * 2 * of.num_key_value_heads * of.head_dim * _BYTES


def decode_seconds(of: Any, gpu: str, *, context: int = CONTEXT, batch: int = BATCH) -> Any:
    """GPU-seconds to generate a million tokens: the larger of arithmetic at the peak and of memory traffic.

    A step reads every weight that some sequence of the batch visits (a batch visits nearly all experts of a layer,
    even when a token visits few) and each sequence's cache. How many GPUs share the work does not matter; links are
    taken as free.

    Args:
        of: an ``Architecture`` or a ``ShapeTable``.
        gpu: a name in ``hardware.yaml``.
    """
    figures = find_gpu(gpu)
    roles = of.params_by_role() if isinstance(of, Architecture) else of.params_by_role
    routed = roles["routed_experts"]
    experts = np.maximum(of.num_experts, 1)
    visited = 1.0 - (1.0 - of.experts_per_token / experts) ** batch
    untouched = 0 if of.tied_embeddings else roles["embedding"]
    weights = of.params_total - untouched - routed + routed * visited
    traffic = _BYTES * weights / batch + kv_bytes_per_token(of) * float(context)
    attention = of.num_layers * counts.attention_flops_of_layer(of) * float(context)
    arithmetic = 2.0 * (of.params_active - untouched) + attention
    return 1e6 * np.maximum(arithmetic / figures.peak_flops, traffic / figures.memory_bandwidth)


def serving_of(model: Architecture, gpu: str, inference_tokens: float) -> Serving:
    """The plan's record of what its model costs to serve."""
    return Serving(
        gpu=gpu,
        inference_tokens=inference_tokens or None,
        context=CONTEXT,
        batch=BATCH,
        decode_seconds=float(decode_seconds(model, gpu)),
        kv_bytes_per_token=float(kv_bytes_per_token(model)),
        assumptions="bf16 weights and cache, peak FLOP/s and memory bandwidth of the data sheet, links free",
    )
