"""Which layers each pipeline stage holds: as even in time as whole layers allow, the output head counted in."""

from dataclasses import dataclass

from scaling.plan import Layout
from trainer_small import counts
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class Chunk:
    """Consecutive layers that a stage computes at once; with interleaving a stage has several."""

    stage: int
    num_dense_layers: int
    num_moe_layers: int
    has_embedding: bool
    has_head: bool

    @property
    def num_layers(self) -> int:
        return self.num_dense_layers + self.num_moe_layers


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


def chunks_of(model: Architecture, layout: Layout) -> list[Chunk]:
    """Every chunk of the pipeline in the order of the layers; chunk c is computed by stage c modulo the stages."""
    sizes = chunk_layers(model, layout.pipeline * layout.virtual_pipeline)
    chunks, first = [], 0
    for index, size in enumerate(sizes):
        moe = sum(model.is_moe_layer(layer) for layer in range(first, first + size))
        first += size
        last = index == len(sizes) - 1
        chunks.append(Chunk(index % layout.pipeline, size - moe, moe, index == 0, last))
    return chunks


def _head_in_layers(model: Architecture) -> float:
    """FLOPs of the head over those of a usual layer, attention products left out."""
    layer = sum(counts.matmul_weights_of_layer(model, moe=model.is_moe).values())
    return model.vocab_size * model.hidden_size / layer
