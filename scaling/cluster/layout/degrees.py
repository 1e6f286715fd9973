"""Degrees of parallelism, of one layout or of a column of many, and what follows from them."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol


class Degrees(Protocol):
    """One ``Layout``, or ``Columns`` of many: the arithmetic of memory and time is the same for both."""

    @property
    def gpus(self) -> int: ...
    @property
    def tensor(self) -> Any: ...
    @property
    def pipeline(self) -> int: ...
    @property
    def virtual_pipeline(self) -> int: ...
    @property
    def expert(self) -> Any: ...
    @property
    def expert_tensor(self) -> Any: ...
    @property
    def context(self) -> Any: ...
    @property
    def micro_batch_size(self) -> Any: ...
    @property
    def recompute(self) -> Literal["none", "selective", "full"]: ...


@dataclass(frozen=True)
class Columns:
    """Layouts that share the pipeline's shape and the recomputation; the other degrees are arrays, [layouts]."""

    gpus: int
    pipeline: int
    virtual_pipeline: int
    recompute: Literal["none", "selective", "full"]
    tensor: Any
    expert: Any
    expert_tensor: Any
    context: Any
    micro_batch_size: Any


def data_replicas(layout: Degrees) -> Any:
    """Sequences that are processed at once: the data-parallel degree."""
    return layout.gpus // (layout.tensor * layout.pipeline * layout.context)


def plain_replicas(layout: Degrees) -> Any:
    """Ranks that hold the same part of what is not a routed expert: data x context parallel."""
    return layout.gpus // (layout.tensor * layout.pipeline)


def expert_replicas(layout: Degrees) -> Any:
    """Ranks that hold the same routed experts."""
    return layout.gpus // (layout.expert * layout.expert_tensor * layout.pipeline)


def micro_batches_of(layout: Degrees, batch_size: int) -> Any:
    """Micro-batches of one data-parallel rank in a step of ``batch_size`` sequences."""
    return batch_size // (data_replicas(layout) * layout.micro_batch_size)


def tokens_of(layout: Degrees, sequence_length: int) -> Any:
    """Tokens of a micro-batch on one GPU inside attention and FFN; outside they are split over ``tensor`` too."""
    return sequence_length * layout.micro_batch_size / layout.context
