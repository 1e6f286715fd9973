"""A lower bound of the bytes that any layout puts on its fullest GPU: cheap enough for a million shapes at once."""

from typing import Any

from scaling.cluster.hardware import gpu as find_gpu
from scaling.cluster.layout.assumptions import Assumptions, usual_assumptions

MOST_STAGES = 64
"""Pipeline stages beyond which no layout is searched."""


def least_bytes_per_gpu(
    params_total: Any,
    gpus: int,
    *,
    params_routed: Any = None,
    num_layers: Any = MOST_STAGES,
    gpus_per_node: int = 8,
    assumptions: Assumptions | None = None,
) -> Any:
    """No layout on ``gpus`` GPUs needs fewer bytes of weights, gradients and optimizer state than this on every GPU.

    The fullest GPU holds at least the mean of all. Each parameter outside the routed experts is repeated for every
    data and context parallel rank, gpus / (tensor x pipeline) times, with its weight and gradient; only the optimizer's
    state is sharded over the copies. Tensor parallelism stays inside a node and a stage holds a layer at least, which
    bounds tensor x pipeline. Routed experts may lie on one GPU each. Activations and logits, which a real layout
    needs too, are counted as 0.

    Args:
        params_total: trainable parameters; a number or a column of them, as are the next two.
        gpus: accelerators of the cluster.
        params_routed: of those, the routed experts' (``params_by_role()["routed_experts"]``). None supposes that every
            parameter may lie on one GPU: a lower, still valid bound.
        num_layers: layers of the model; more stages are not possible.
        gpus_per_node: largest tensor-parallel degree.
        assumptions: bytes a parameter, and whether the optimizer's state is sharded.

    Returns:
        Bytes per GPU, of the shape of the arguments. A shape whose bound exceeds ``usable_bytes(gpu)`` needs no search.
    """
    import numpy as np

    assumed = assumptions or usual_assumptions()
    repeated = assumed.weight_bytes + assumed.gradient_bytes
    sharded = assumed.optimizer_bytes
    if not assumed.sharded_optimizer:
        repeated, sharded = repeated + sharded, 0.0
    model_parallel = np.minimum(gpus, gpus_per_node * np.minimum(num_layers, MOST_STAGES))
    routed = params_total if params_routed is None else params_routed
    plain = params_total - routed
    return (repeated + sharded) * routed / gpus + plain * (repeated / model_parallel + sharded / gpus)


def usable_bytes(gpu: str, *, assumptions: Assumptions | None = None) -> float:
    """What a layout may use of one GPU's memory.

    Raises:
        UserError: the GPU is unknown.
    """
    return find_gpu(gpu).memory_bytes * (assumptions or usual_assumptions()).usable_memory
