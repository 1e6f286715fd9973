"""Which layouts a cluster allows for a run, and why the others do not work."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from scaling.cluster.faults import faults
from scaling.cluster.hardware import Gpu
from scaling.cluster.layout.bound import MOST_STAGES
from scaling.cluster.layout.degrees import Columns
from scaling.cluster.run import Run
from scaling.plan import Layout

MOST_TENSOR = 16
MOST_CONTEXT = 16
MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL = (1, 2, 3, 4, 5, 6, 8, 10, 12)
RECOMPUTE: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Rejected:
    """Degrees that no micro-batch, interleaving or recomputation saves."""

    layout: Layout
    reason: str


def candidates(run: Run, gpus: int, gpu: Gpu) -> tuple[list[Columns], list[Rejected]]:
    """All combinations of degrees that divide the GPUs, grouped for the arithmetic; and those that cannot work.

    Tensor parallelism and expert tensor parallelism stay in a node and the latter does not exceed the former.
    """
    allowed: dict[int, list[Layout]] = {}
    rejected = []
    for layout in _degrees(run, gpus, gpu):
        found = faults(dataclasses.replace(run, layout=layout))
        if found:
            rejected.append(Rejected(layout, found[0]))
        else:
            allowed.setdefault(layout.pipeline, []).append(layout)
    groups = []
    for pipeline, layouts in allowed.items():
        virtuals = [v for v in VIRTUAL if v == 1 or (pipeline > 1 and pipeline * v <= run.model.num_layers)]
        for virtual, recompute in product(virtuals, RECOMPUTE):
            groups.append(_columns(gpus, pipeline, virtual, recompute, layouts))
    return groups, rejected


def _degrees(run: Run, gpus: int, gpu: Gpu) -> Iterator[Layout]:
    divisors = [degree for degree in range(1, gpus + 1) if gpus % degree == 0]
    inside = [degree for degree in divisors if degree <= min(gpu.gpus_per_node, MOST_TENSOR)]
    stages = [degree for degree in divisors if degree <= MOST_STAGES]
    experts = [degree for degree in divisors if degree <= max(run.model.num_experts, 1)]
    contexts = [degree for degree in divisors if degree <= MOST_CONTEXT]
    for tensor, pipeline, context in product(inside, stages, contexts):
        if gpus % (tensor * pipeline * context):
            continue  # these ranks do not make up the cluster
        for expert, expert_tensor in product(experts, inside):
            if expert_tensor > (tensor if run.model.is_moe else 1) or gpus % (expert * expert_tensor * pipeline):
                continue
            for size in MICRO_BATCHES:
                yield Layout.model_construct(
                    gpus=gpus,
                    tensor=tensor,
                    pipeline=pipeline,
                    virtual_pipeline=1,
                    expert=expert,
                    expert_tensor=expert_tensor,
                    context=context,
                    micro_batch_size=size,
                    recompute="none",
                )


def _columns(
    gpus: int, pipeline: int, virtual: int, recompute: Literal["none", "selective", "full"], layouts: list[Layout]
) -> Columns:
    import numpy as np

    keys = ("tensor", "expert", "expert_tensor", "context", "micro_batch_size")
    arrays = {key: np.array([getattr(layout, key) for layout in layouts]) for key in keys}
    return Columns(gpus=gpus, pipeline=pipeline, virtual_pipeline=virtual, recompute=recompute, **arrays)
