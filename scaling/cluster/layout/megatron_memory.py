"""Weights, gradients and optimizer on the fullest GPU as Megatron-LM itself estimates them, to compare side by side."""

from typing import Any

from scaling.cluster.layout.degrees import Degrees, data_replicas, expert_replicas
from trainer_small import counts
from trainer_small.architecture import Architecture

_WEIGHT_AND_GRADIENT, _OPTIMIZER = 6.0, 12.0


def megatron_state_bytes(model: Architecture, layout: Degrees, *, sharded_optimizer: bool = True) -> Any:
    """Bytes by the convention of ``compute_weight_and_optimizer_memory`` (Megatron-LM d98e8a64dd).

    It differs from ``memory_of(...).states``, which counts the layers that a stage really holds:

    - every stage has the same, fractional share of all layers;
    - the fullest one has the embedding, and the head too only without pipeline parallelism;
    - all of attention is split over tensor parallelism;
    - the optimizer's state is sharded over data parallel ranks alone, not over context parallel ones.

    The vocabulary is the model's own, unpadded, as the export to Megatron-LM has it. Multi-token prediction modules are
    not part of the model and not counted.
    """
    moe, dense = model.num_moe_layers, model.num_layers - model.num_moe_layers
    d = model.hidden_size
    attention = counts.attention_weights(model)
    if model.attention == "mla":
        attention += model.kv_lora_rank + (model.q_lora_rank or 0)
    shared = 3 * d * model.num_shared_experts * model.shared_expert_ffn_size
    split = model.num_layers * attention + dense * 3 * d * model.dense_ffn_size + moe * shared
    router = moe * (model.num_experts * d + d * model.shared_expert_gate)
    whole = model.num_layers * 2 * d + router + d
    routed = moe * model.num_experts * 3 * d * model.expert_ffn_size
    table = model.vocab_size * d
    tables = 1 if layout.pipeline > 1 or model.tied_embeddings else 2
    plain_here = (split / layout.pipeline + tables * table) / layout.tensor + whole / layout.pipeline
    routed_here = routed / (layout.pipeline * layout.expert * layout.expert_tensor)
    replicas, routed_replicas = data_replicas(layout), expert_replicas(layout)
    if not sharded_optimizer:
        replicas = routed_replicas = 1
    return plain_here * (_WEIGHT_AND_GRADIENT + _OPTIMIZER / replicas) + routed_here * (
        _WEIGHT_AND_GRADIENT + _OPTIMIZER / routed_replicas
    )
