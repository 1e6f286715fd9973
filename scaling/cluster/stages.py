"""Which layers each pipeline stage holds: as even in time as whole layers allow, the output head counted in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_small import counts
from trainer_small.architecture import Architecture

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Stages:
    """What every pipeline stage holds over all its chunks: arrays of shape [stages, 1]."""

    num_dense_layers: "np.ndarray"
    num_moe_layers: "np.ndarray"
    has_embedding: "np.ndarray"
    has_head: "np.ndarray"


def chunk_layers(model: Architecture, chunks: int) -> list[int]:
    """Layers of each of ``chunks`` pieces, in order.

    A whole number of layers goes to each, at least one; the last gets fewer by what the head costs in layers, so that
    no stage waits for it. Leftover layers go to the middle, away from embedding and head.
    """
    if chunks == 1:
        return [model.num_layers]
    head = min(_head_in_layers(model), model.num_layers / chunks)
    fair = (model.num_layers + head) / chunks
    last = max(round(fair - head), 1)
    fewer, longer = divmod(model.num_layers - last, chunks - 1)
    if fewer == 0:  # fewer layers than chunks would leave one empty
        fewer, longer = divmod(model.num_layers, chunks)
        layers = [fewer] * chunks
    else:
        layers = [fewer] * (chunks - 1) + [last]
    inner_first = sorted(range(chunks - 1), key=lambda chunk: (chunk == 0, chunk))
    for chunk in inner_first[:longer]:
        layers[chunk] += 1
    return layers


def stages_of(model: Architecture, pipeline: int, virtual_pipeline: int) -> Stages:
    """Every stage's layers; chunk c of the model's layers, in order, is computed by stage c modulo the stages."""
    import numpy as np

    dense, moe = np.zeros((pipeline, 1)), np.zeros((pipeline, 1))
    first = 0
    for chunk, size in enumerate(chunk_layers(model, pipeline * virtual_pipeline)):
        with_experts = sum(model.is_moe_layer(layer) for layer in range(first, first + size))
        moe[chunk % pipeline] += with_experts
        dense[chunk % pipeline] += size - with_experts
        first += size
    number = np.arange(pipeline)[:, None]
    return Stages(dense, moe, number == 0, number == pipeline - 1)


def fullest(by_stage: Any, total: Any) -> Any:
    """Of values of shape [stages, ...], those of the stage where ``total`` is largest."""
    import numpy as np

    total = np.asarray(total)
    values = np.broadcast_to(by_stage, total.shape)
    return np.take_along_axis(values, total.argmax(axis=0)[None], axis=0)[0]


def _head_in_layers(model: Architecture) -> float:
    """FLOPs of the head over those of a usual layer, attention products left out."""
    layer = sum(counts.matmul_weights_of_layer(model, moe=model.is_moe).values())
    return model.vocab_size * model.hidden_size / layer
