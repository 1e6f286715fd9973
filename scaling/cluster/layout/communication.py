"""Seconds of the collectives that a layout needs, before what runs behind arithmetic is taken off.

Ranks lie as Megatron-LM orders them: tensor parallel ranks next to each other, then context, then data, then pipeline;
expert-tensor ranks next to each other, then expert, then expert-data.
"""

from typing import Any

from scaling.cluster.layout.assumptions import Assumptions, Speeds
from scaling.cluster.layout.degrees import Degrees, expert_replicas, plain_replicas
from trainer_small.architecture import Architecture


def tensor_parallel_seconds(model: Architecture, layout: Degrees, tokens: Any, speeds: Speeds) -> Any:
    """An all-gather and a reduce-scatter of one micro-batch's activations, around attention or around a dense FFN.

    Routed experts need none: the all-to-all sends the tokens that each rank holds. The shared experts' are left out.
    """
    share = (layout.tensor - 1) / layout.tensor
    return 2 * share * tokens * model.hidden_size * speeds.element / speeds.link(layout.tensor)


def all_to_all_seconds(model: Architecture, layout: Degrees, split: Any, speeds: Speeds, assumed: Assumptions) -> Any:
    """One layer's forward: sending each token's copies to its experts and the results back.

    The first ``gpus_per_node / expert_tensor`` ranks of an expert group share a node; what leaves the node goes over
    the network. A token crosses to another node once, however many of its experts are there (DeepEP and HybridEP;
    arXiv 2412.19437, section 3.2.2), and is handed on inside it; or it crosses once an expert. The two ways run at
    once; the slower one counts.

    Args:
        split: tokens of a micro-batch on one GPU, split over tensor parallelism.
    """
    import numpy as np

    near = np.minimum(layout.expert, np.maximum(speeds.gpus_per_node // layout.expert_tensor, 1))
    nodes = layout.expert / near
    row = 2 * split * model.hidden_size * speeds.element
    inside = row * model.experts_per_token * (near - 1) / near
    if assumed.one_copy_per_node:
        reached = nodes * (1 - (1 - 1 / nodes) ** model.experts_per_token)
        if model.num_expert_groups > 1:  # a token's experts come from few groups, and a group lies together
            groups = np.maximum(nodes / model.num_expert_groups, 1)
            reached = np.minimum(reached, model.expert_groups_per_token * groups)
        crossings = reached * (nodes - 1) / nodes
    else:
        crossings = model.experts_per_token * (nodes - 1) / nodes
    gathered = row * model.experts_per_token * (layout.expert_tensor - 1)
    exchanged = np.maximum(inside / speeds.intra_node, row * crossings / speeds.inter_node)
    return exchanged + gathered / speeds.link(layout.expert_tensor)


def context_parallel_seconds(model: Architecture, layout: Degrees, tokens: Any, speeds: Speeds) -> Any:
    """One layer's forward: keys and values going round the ring."""
    if model.attention == "mla":
        width = model.num_attention_heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    else:
        width = 2 * model.num_key_value_heads * model.head_dim
    sent = (layout.context - 1) * tokens * width * speeds.element / layout.tensor
    return sent / speeds.link(layout.tensor * layout.context)


def pipeline_seconds(model: Architecture, layout: Degrees, tokens: Any, speeds: Speeds) -> Any:
    """One micro-batch's activations and their gradients over each of a stage's boundaries."""
    if layout.pipeline == 1:
        return 0.0 * tokens
    sent = 2 * layout.virtual_pipeline * tokens * model.hidden_size * speeds.element / layout.tensor
    return sent / speeds.link(layout.gpus)


def data_parallel_seconds(
    layout: Degrees, plain: Any, routed: Any, speeds: Speeds, assumptions: Assumptions
) -> tuple[Any, Any]:
    """One step's scattering of gradients and gathering of weights, each over the network when the ranks span nodes."""
    replicas, routed_replicas = plain_replicas(layout), expert_replicas(layout)
    moved = plain * (replicas - 1) / replicas + routed * (routed_replicas - 1) / routed_replicas
    speed = speeds.link(layout.gpus // layout.pipeline)
    return assumptions.gradient_bytes * moved / speed, assumptions.weight_bytes * moved / speed
