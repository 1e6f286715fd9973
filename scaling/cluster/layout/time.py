"""Seconds of one optimizer step, by what they go to: arithmetic, memory traffic, communication, waiting.

A roofline with stated assumptions: each kind of work takes its FLOPs over the speed that such products reach, or its
bytes over the speed of what moves them. The slowest stage sets the pace; the pipeline's filling and emptying, the
collectives that nothing hides and the optimizer come on top.
"""

from dataclasses import dataclass, fields
from typing import Any

from scaling.cluster.hardware import Gpu
from scaling.cluster.layout import communication
from scaling.cluster.layout.activations import kept_by_layer
from scaling.cluster.layout.assumptions import Assumptions, Precision, Speeds
from scaling.cluster.layout.degrees import Degrees, expert_replicas, plain_replicas, tokens_of
from scaling.cluster.layout.memory import bytes_per_parameter, params_on_rank
from scaling.cluster.layout.products import head_product, products_of_layer
from scaling.cluster.stages import Stages, fullest, stages_of
from trainer_small import counts
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on the slowest stage; the parts add up to ``total``. Numbers, or arrays, [layouts]."""

    matmuls: Any
    """Attention projections, dense and shared FFNs, router and head."""
    experts: Any
    attention: Any
    """Scores and value products."""
    elementwise: Any
    """Norms, activations, routing and copies: bound by memory traffic."""
    recomputation: Any
    overhead: Any
    """Launches and the routing's bookkeeping, a fixed time a layer."""
    tensor_parallel: Any
    all_to_all: Any
    context_parallel: Any
    pipeline_transfer: Any
    data_parallel: Any
    """Gradients and weights of the sharded optimizer that no arithmetic hides."""
    bubble: Any
    """Stages waiting for the pipeline to fill and empty."""
    optimizer: Any

    @property
    def total(self) -> Any:
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer's forward pass for one micro-batch on one GPU, by kind."""

    matmuls: Any
    experts: Any
    attention_forward: Any
    attention_backward: Any
    elementwise: Any
    overhead: Any
    tensor_parallel: Any
    all_to_all: Any
    context_parallel: Any
    latent_up: Any
    """Of ``matmuls``, the up-projections of MLA that selective recomputation repeats."""


def step_time(
    model: Architecture,
    layout: Degrees,
    *,
    sequence_length: int,
    micro_batches: Any,
    gpu: Gpu,
    assumptions: Assumptions,
    precision: Precision = "bf16",
) -> StepTime:
    """Seconds of a step of ``micro_batches`` per data-parallel rank.

    Args:
        sequence_length: tokens in a sequence.
        micro_batches: of one data-parallel rank in a step.
    """
    speeds = Speeds(gpu, assumptions, precision)
    stages = stages_of(model, layout.pipeline, layout.virtual_pipeline)
    tokens = tokens_of(layout, sequence_length)
    head = head_product(model, layout, sequence_length).seconds(speeds)
    parts = _pass(model, layout, stages, head, sequence_length, speeds, assumptions)
    by_stage: Any = sum(parts.values())
    mean = by_stage.mean(axis=0)
    transfer = communication.pipeline_seconds(model, layout, tokens, speeds) * (1 - assumptions.pipeline_hidden)
    sends = 2 * layout.virtual_pipeline * (layout.pipeline > 1)
    transfer = transfer + sends * assumptions.collective_latency_seconds
    waiting = (layout.pipeline - 1) / layout.virtual_pipeline * (mean + transfer / layout.virtual_pipeline)
    plain, routed = (fullest(each, by_stage) for each in params_on_rank(model, layout, stages))
    slowest = {name: fullest(value, by_stage) * micro_batches for name, value in parts.items()}
    scatter, gather = communication.data_parallel_seconds(layout, plain, routed, speeds, assumptions)
    return StepTime(
        **slowest,
        pipeline_transfer=transfer * micro_batches,
        bubble=waiting,
        data_parallel=_exposed(scatter, mean * 2 / 3) + _exposed(gather, mean / 3),
        optimizer=_optimizer(layout, plain, routed, speeds, assumptions, precision),
    )


def _pass(
    model: Architecture,
    layout: Degrees,
    stages: Stages,
    head: Any,
    sequence_length: int,
    speeds: Speeds,
    assumptions: Assumptions,
) -> dict[str, Any]:
    """Forward and backward of one micro-batch, [stages, layouts]: the backward does every product twice."""
    import numpy as np

    names = ("matmuls", "experts", "attention", "elementwise", "recomputation", "overhead", "tensor_parallel",
             "all_to_all", "context_parallel")  # fmt: skip
    sums: dict[str, Any] = dict.fromkeys(names, np.zeros(np.broadcast_shapes(stages.has_head.shape, np.shape(head))))
    for moe, layers in ((False, stages.num_dense_layers), (True, stages.num_moe_layers)):
        if moe and not model.is_moe:
            continue
        layer = layer_time(model, layout, sequence_length, moe=moe, speeds=speeds, assumptions=assumptions)
        spent = {
            "matmuls": 3 * layer.matmuls,
            "experts": 3 * layer.experts,
            "attention": layer.attention_forward + layer.attention_backward,
            "elementwise": 3 * layer.elementwise,
            "recomputation": _recomputation(layer, layout),
            "overhead": 3 * layer.overhead,
            "tensor_parallel": 2 * layer.tensor_parallel,
            "all_to_all": 2 * layer.all_to_all,
            "context_parallel": 2 * layer.context_parallel,
        }
        sums = {name: sums[name] + layers * spent[name] for name in names}
    sums["matmuls"] = sums["matmuls"] + stages.has_head * 3 * head
    return sums


def _recomputation(layer: LayerTime, layout: Degrees) -> Any:
    """The forward pass again, its communication in; or only what selective recomputation brings back."""
    if layout.recompute == "full":
        again = layer.matmuls + layer.experts + layer.attention_forward + layer.elementwise + layer.overhead
        return again + layer.tensor_parallel + layer.all_to_all + layer.context_parallel
    if layout.recompute == "selective":
        return layer.latent_up + layer.elementwise / 3
    return 0.0 * layer.matmuls


def layer_time(
    model: Architecture,
    layout: Degrees,
    sequence_length: int,
    *,
    moe: bool,
    speeds: Speeds,
    assumptions: Assumptions,
) -> LayerTime:
    """One layer's forward pass for one micro-batch on one GPU."""
    import numpy as np

    tokens = tokens_of(layout, sequence_length)
    split = tokens / layout.tensor
    seconds = {"plain": 0.0 * split, "latent_up": 0.0 * split, "expert": 0.0 * split}
    for product in products_of_layer(model, layout, sequence_length, moe=moe):
        seconds[product.role] = seconds[product.role] + product.seconds(speeds)
    all_to_all = 0.0 * split
    if moe:
        all_to_all = communication.all_to_all_seconds(model, layout, split, speeds, assumptions)
    scores = tokens * counts.attention_flops_of_layer(model) * sequence_length / 2 / layout.tensor
    forward = scores / speeds.attention_forward
    blocks = 1 if moe else 2  # attention, and a dense FFN
    collective = communication.tensor_parallel_seconds(model, layout, tokens, speeds) * blocks
    late = assumptions.collective_latency_seconds
    ring = communication.context_parallel_seconds(model, layout, tokens, speeds)
    return LayerTime(
        matmuls=seconds["plain"] + seconds["latent_up"],
        experts=seconds["expert"] * assumptions.time_imbalance,
        attention_forward=forward,
        attention_backward=2.5 * scores / speeds.attention_backward,  # five products where the forward has two
        elementwise=_elementwise(model, layout, sequence_length, moe, speeds, assumptions),
        overhead=assumptions.layer_overhead_seconds * (1.0 if moe else 0.3),
        tensor_parallel=collective * (1 - assumptions.tensor_parallel_hidden) + 2 * blocks * late * (layout.tensor > 1),
        all_to_all=all_to_all * (1 - assumptions.all_to_all_hidden) + 2 * late * moe * (layout.expert > 1),
        context_parallel=np.maximum(ring - forward, 0.0) + (layout.context - 1) * late,
        latent_up=seconds["latent_up"],
    )


def _elementwise(
    model: Architecture, layout: Degrees, sequence_length: int, moe: bool, speeds: Speeds, assumptions: Assumptions
) -> Any:
    """Reading and writing what the layer keeps; the experts' inputs twice, as they are sorted and put back."""
    kept = kept_by_layer(model, layout, sequence_length, moe=moe)
    moved = kept.input + kept.norms + kept.attention + kept.latent_up + kept.ffn + kept.ffn_products
    moved = moved + 2 * kept.dispatched + kept.experts + kept.expert_products
    return assumptions.elementwise_passes * speeds.element * moved / speeds.memory


def _exposed(seconds: Any, behind: Any) -> Any:
    """What is left of a collective that runs behind other work."""
    import numpy as np

    return np.maximum(seconds - behind, 0.0)


def _optimizer(
    layout: Degrees, plain: Any, routed: Any, speeds: Speeds, assumptions: Assumptions, precision: Precision
) -> Any:
    """Reading and writing the states of this rank's shard once."""
    weight, gradient, state = bytes_per_parameter(assumptions, precision)
    held = plain + routed
    if assumptions.sharded_optimizer:
        held = plain / plain_replicas(layout) + routed / expert_replicas(layout)
    return (2 * state + gradient + weight) * held / speeds.memory
