"""Bytes on the GPUs of the fullest pipeline stage, by what they are for."""

from dataclasses import dataclass
from typing import Any

from scaling.cluster.layout.activations import kept_by_layer, kept_bytes
from scaling.cluster.layout.assumptions import Assumptions, Precision
from scaling.cluster.layout.degrees import Degrees, expert_replicas, plain_replicas, tokens_of
from scaling.cluster.stages import Stages, fullest, stages_of
from trainer_small.architecture import Architecture

GIB = 2.0**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU of the stage that holds most; numbers, or arrays of shape [layouts]."""

    stage: Any
    """Of the pipeline, from 0."""
    weights: Any
    gradients: Any
    optimizer: Any
    activations: Any
    """Of all micro-batches in flight."""
    recomputed: Any
    """One layer's activations while they are computed again."""
    logits: Any
    usable: Any
    """What the GPU offers of its memory."""

    @property
    def states(self) -> Any:
        """Weights, gradients and optimizer: the fullest stage as its whole layers fall."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> Any:
        return self.states + self.activations + self.recomputed + self.logits

    @property
    def fits(self) -> Any:
        return self.total <= self.usable


def memory_of(
    model: Architecture,
    layout: Degrees,
    *,
    sequence_length: int,
    micro_batches: Any,
    gpu_memory: float,
    assumptions: Assumptions,
    precision: Precision = "bf16",
) -> Memory:
    """The fullest stage's memory.

    Args:
        sequence_length: tokens in a sequence.
        micro_batches: of one data-parallel rank in a step; fewer than the stages keep fewer in flight.
        gpu_memory: bytes of one GPU.
    """
    stages = stages_of(model, layout.pipeline, layout.virtual_pipeline)
    weights, gradients, optimizer = state_bytes(*params_on_rank(model, layout, stages), layout, assumptions, precision)
    stored, again = _activation_bytes(model, layout, stages, sequence_length, assumptions, precision)
    activations = stored * _in_flight(layout, micro_batches) / layout.virtual_pipeline
    tokens = tokens_of(layout, sequence_length)
    logits = stages.has_head * tokens * model.vocab_size / layout.tensor * assumptions.logit_bytes
    total = weights + gradients + optimizer + activations + again + logits
    return Memory(
        stage=total.argmax(axis=0),
        weights=fullest(weights, total),
        gradients=fullest(gradients, total),
        optimizer=fullest(optimizer, total),
        activations=fullest(activations, total),
        recomputed=fullest(again, total),
        logits=fullest(logits, total),
        usable=gpu_memory * assumptions.usable_memory,
    )


def params_on_rank(model: Architecture, layout: Degrees, stages: Stages) -> tuple[Any, Any]:
    """Parameters on one GPU of each stage, [stages, layouts]: all but the routed experts', and the routed experts'.

    Attention, dense FFN, shared experts, embedding and head are split over tensor parallelism; norms, routers and the
    down-projections of MLA are whole on every rank; routed experts are split over expert and expert tensor parallelism.
    """
    split, whole, routed = 0.0, 0.0, 0.0
    duplicated = _latent_down(model)
    for moe, layers in ((False, stages.num_dense_layers), (True, stages.num_moe_layers)):
        roles = model.params_of_layer(moe=moe)
        tensor_split = sum(roles.get(role, 0) for role in ("attention", "dense_mlp", "shared_experts"))
        split = split + layers * (tensor_split - duplicated)
        whole = whole + layers * (duplicated + sum(roles.get(role, 0) for role in ("norm", "router")))
        whole = whole + layers * roles.get("shared_expert_gate", 0)
        routed = routed + layers * roles.get("routed_experts", 0)
    table = model.vocab_size * model.hidden_size
    own_table = ~stages.has_embedding if model.tied_embeddings else True
    split = split + table * stages.has_embedding + table * (stages.has_head & own_table)
    whole = whole + model.hidden_size * stages.has_head  # the last norm
    return split / layout.tensor + whole, routed / (layout.expert * layout.expert_tensor)


def bytes_per_parameter(assumptions: Assumptions, precision: Precision) -> tuple[float, float, float]:
    """Weight, gradient and optimizer state; in fp32 the weight is its own master."""
    if precision == "fp32":
        return 4.0, 4.0, 8.0
    return assumptions.weight_bytes, assumptions.gradient_bytes, assumptions.optimizer_bytes


def state_bytes(
    plain: Any, routed: Any, layout: Degrees, assumptions: Assumptions, precision: Precision
) -> tuple[Any, Any, Any]:
    """Bytes of weights, gradients and optimizer for parameters on one GPU.

    The optimizer's state is sharded over the ranks that hold the same parameters: data and context parallel ranks for
    the plain ones, expert-data parallel ranks for the experts.
    """
    weight, gradient, optimizer = bytes_per_parameter(assumptions, precision)
    total = plain + routed
    held = total
    if assumptions.sharded_optimizer:
        held = plain / plain_replicas(layout) + routed / expert_replicas(layout)
    return weight * total, gradient * total, optimizer * held


def _activation_bytes(
    model: Architecture,
    layout: Degrees,
    stages: Stages,
    sequence_length: int,
    assumptions: Assumptions,
    precision: Precision,
) -> tuple[Any, Any]:
    """Bytes kept of one micro-batch by each stage, and of the one layer computed again, [stages, layouts]."""
    import numpy as np

    stored, again = 0.0, 0.0
    for moe, layers in ((False, stages.num_dense_layers), (True, stages.num_moe_layers)):
        if moe and not model.is_moe:
            continue
        kept = kept_by_layer(model, layout, sequence_length, moe=moe)
        imbalance = assumptions.expert_imbalance
        stored = stored + layers * kept_bytes(kept, layout.recompute, precision, imbalance)
        if layout.recompute == "full":
            one = kept_bytes(kept, "none", precision, imbalance)
            again = np.maximum(again, (layers > 0) * one)
    return stored, again + 0.0 * stored


def _in_flight(layout: Degrees, micro_batches: Any) -> Any:
    """Chunks whose activations each stage holds at its fullest, [stages, layouts].

    1F1B, or interleaved as arXiv 2104.04473, section 2.2: the first stage then holds 1 + (p - 1) / (p v) times what it
    holds without, as arXiv 2205.05198, section 4.2.3, has it.
    """
    import numpy as np

    stage = np.arange(layout.pipeline)[:, None]
    stages, virtual = layout.pipeline, layout.virtual_pipeline
    if virtual == 1:
        return np.minimum(micro_batches, stages - stage)
    return np.minimum(micro_batches * virtual, 2 * (stages - stage - 1) + (virtual - 1) * stages + 1)


def _latent_down(model: Architecture) -> int:
    """Parameters of MLA's down-projections and latent norms, which tensor parallelism does not split."""
    if model.attention != "mla":
        return 0
    query = (model.q_lora_rank or 0) * (model.hidden_size + 1)
    return query + model.hidden_size * (model.kv_lora_rank + model.qk_rope_head_dim) + model.kv_lora_rank
