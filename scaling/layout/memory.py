"""Bytes on the GPUs of each pipeline stage, by what they are for."""

from fits.schema import Schema
from scaling.layout.activations import kept_by_layer, kept_bytes
from scaling.layout.assumptions import Assumptions
from scaling.layout.stages import Chunk, chunks_of
from scaling.plan import Layout
from trainer_small.architecture import Architecture

WEIGHT_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES = 2.0, 4.0, 12.0
"""bf16 weights, fp32 gradients, and fp32 master weights with two Adam moments, which the optimizer shards."""

GIB = 2.0**30


class Memory(Schema):
    """Bytes on one GPU of the stage that holds most."""

    stage: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    """Of all micro-batches in flight."""
    recomputed: float
    """One layer's activations while they are computed again."""
    logits: float
    usable: float
    """What the GPU offers of its memory."""

    @property
    def states(self) -> float:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.states + self.activations + self.recomputed + self.logits

    @property
    def fits(self) -> bool:
        return self.total <= self.usable


def memory_of(
    model: Architecture,
    layout: Layout,
    *,
    sequence_length: int,
    micro_batches: int,
    gpu_memory: float,
    assumptions: Assumptions,
    fp8: bool = False,
) -> Memory:
    """The fullest stage's memory.

    Args:
        sequence_length: tokens in a sequence.
        micro_batches: of one data-parallel rank in a step; fewer than the stages keep fewer in flight.
        gpu_memory: bytes of one GPU.
    """
    chunks = chunks_of(model, layout)
    kept = {moe: kept_by_layer(model, layout, sequence_length, moe=moe) for moe in (False, True)}
    stages = []
    for stage in range(layout.pipeline):
        mine = [chunk for chunk in chunks if chunk.stage == stage]
        stored = {moe: kept_bytes(kept[moe], layout, fp8=fp8, imbalance=assumptions.expert_imbalance) for moe in kept}
        of_layers = sum(chunk.num_dense_layers * stored[False] + chunk.num_moe_layers * stored[True] for chunk in mine)
        share = _in_flight(stage, layout, micro_batches) / layout.virtual_pipeline
        recomputed = 0.0
        if layout.recompute == "full":
            again = layout.model_copy(update={"recompute": "none"})
            recomputed = max(
                kept_bytes(kept[moe], again, fp8=fp8, imbalance=assumptions.expert_imbalance)
                for moe in kept
                if any(chunk.num_moe_layers if moe else chunk.num_dense_layers for chunk in mine)
            )
        logits = 0.0
        if any(chunk.has_head for chunk in mine):
            tokens = sequence_length * layout.micro_batch_size / layout.context
            logits = tokens * model.vocab_size / layout.tensor * assumptions.logit_bytes
        dense, routed = params_on_rank(model, layout, mine)
        weights, gradients, optimizer = state_bytes(dense, routed, layout, assumptions)
        stages.append(
            Memory(
                stage=stage,
                weights=weights,
                gradients=gradients,
                optimizer=optimizer,
                activations=of_layers * share,
                recomputed=recomputed,
                logits=logits,
                usable=gpu_memory * assumptions.usable_memory,
            )
        )
    return max(stages, key=lambda stage: stage.total)


def params_on_rank(model: Architecture, layout: Layout, chunks: list[Chunk]) -> tuple[float, float]:
    """Parameters on one GPU of a stage: those that data parallelism shards, and the routed experts.

    Attention, dense FFN, shared experts, embedding and head are split over tensor parallelism; norms and routers are
    on every rank; routed experts are split over expert and expert tensor parallelism.
    """
    split, whole, routed = 0.0, 0.0, 0.0
    for moe in (False, True):
        layers = sum(chunk.num_moe_layers if moe else chunk.num_dense_layers for chunk in chunks)
        if layers:
            roles = model.params_of_layer(moe=moe)
            split += layers * sum(roles.get(role, 0) for role in ("attention", "dense_mlp", "shared_experts"))
            whole += layers * sum(roles.get(role, 0) for role in ("norm", "router", "shared_expert_gate"))
            routed += layers * roles.get("routed_experts", 0)
    table = model.vocab_size * model.hidden_size
    if any(chunk.has_embedding for chunk in chunks):
        split += table
    if any(chunk.has_head for chunk in chunks):
        whole += model.hidden_size  # the last norm
        same_rank = model.tied_embeddings and any(chunk.has_embedding for chunk in chunks)
        split += 0 if same_rank else table
    return split / layout.tensor + whole, routed / (layout.expert * layout.expert_tensor)


def state_bytes(dense: float, routed: float, layout: Layout, assumptions: Assumptions) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer for parameters on one GPU.

    The optimizer's state of the dense parameters is sharded over data and context parallel ranks, that of the experts
    over the ranks that hold the same experts.
    """
    replicas = layout.gpus / (layout.tensor * layout.pipeline)
    expert_replicas = layout.gpus / (layout.expert * layout.expert_tensor * layout.pipeline)
    if not assumptions.sharded_optimizer:
        replicas = expert_replicas = 1
    total = dense + routed
    optimizer = assumptions.optimizer_bytes * (dense / replicas + routed / expert_replicas)
    return assumptions.weight_bytes * total, assumptions.gradient_bytes * total, optimizer


def states_of_even_stages(model: Architecture, layout: Layout) -> float:
    """Bytes of weights, gradients and optimizer by the convention of Megatron-LM's own estimate.

    It gives every stage an equal, fractional share of all layers, the first one the embedding too, and shards the
    optimizer over data parallel ranks alone (``compute_weight_and_optimizer_memory``, d98e8a64dd).
    """
    everything = [Chunk(0, model.num_layers - model.num_moe_layers, model.num_moe_layers, False, False)]
    dense, routed = params_on_rank(model, layout, everything)
    table = model.vocab_size * model.hidden_size / layout.tensor
    ends = table if layout.pipeline > 1 or model.tied_embeddings else 2 * table
    dense, routed = (dense + model.hidden_size) / layout.pipeline + ends, routed / layout.pipeline
    replicas = layout.gpus / (layout.tensor * layout.pipeline * layout.context)
    expert_replicas = layout.gpus // (layout.expert * layout.expert_tensor * layout.pipeline)
    each = WEIGHT_BYTES + GRADIENT_BYTES
    return dense * (each + OPTIMIZER_BYTES / replicas) + routed * (each + OPTIMIZER_BYTES / expert_replicas)


def _in_flight(stage: int, layout: Layout, micro_batches: int) -> float:
    """Chunks whose activations a stage holds at its fullest (1F1B; interleaved as arXiv 2104.04473, section 2.2)."""
    stages, virtual = layout.pipeline, layout.virtual_pipeline
    if virtual == 1:
        return min(micro_batches, stages - stage)
    return min(micro_batches * virtual, 2 * (stages - stage - 1) + (virtual - 1) * stages + 1)
