"""Seconds of one optimizer step, by what they go to: arithmetic, memory traffic, communication, waiting.

A roofline with stated assumptions: each kind of work takes its FLOPs over the speed that such products reach, or its
bytes over the speed of what moves them. The slowest stage sets the pace; the pipeline's filling and emptying, the
collectives that nothing hides and the optimizer come on top.
"""

from fits.schema import Schema
from scaling.hardware import Gpu
from scaling.layout.activations import kept_by_layer
from scaling.layout.assumptions import Assumptions
from scaling.layout.memory import GRADIENT_BYTES, OPTIMIZER_BYTES, WEIGHT_BYTES, params_on_rank
from scaling.layout.stages import Chunk, chunks_of
from scaling.plan import Layout
from trainer_small import counts
from trainer_small.architecture import Architecture

_BF16 = 2.0


class StepTime(Schema):
    """Seconds of one step on the slowest stage; the parts add up to ``total``."""

    matmuls: float
    """Attention projections, dense and shared FFNs, router and head."""
    experts: float
    attention: float
    """Scores and value products."""
    elementwise: float
    """Norms, activations, routing and copies: bound by memory traffic."""
    recomputation: float
    overhead: float
    """Launches and the routing's bookkeeping, a fixed time a layer."""
    tensor_parallel: float
    all_to_all: float
    context_parallel: float
    pipeline_transfer: float
    data_parallel: float
    """Gradients and weights of the sharded optimizer that no arithmetic hides."""
    bubble: float
    """Stages waiting for the pipeline to fill and empty."""
    optimizer: float

    @property
    def total(self) -> float:
        return sum(value for _, value in self)


class LayerTime(Schema):
    """Seconds of one layer's forward pass for one micro-batch on one GPU, by kind."""

    matmuls: float
    experts: float
    attention_forward: float
    attention_backward: float
    elementwise: float
    overhead: float
    tensor_parallel: float
    all_to_all: float
    context_parallel: float
    latent_up: float
    """Of ``matmuls``, the up-projections of MLA that selective recomputation repeats."""


class Speeds:
    """What one GPU of a cluster reaches under the assumptions: FLOP/s and bytes/s."""

    def __init__(self, gpu: Gpu, assumptions: Assumptions, *, fp8: bool) -> None:
        faster = assumptions.fp8_speedup if fp8 else 1.0
        self.matmul = gpu.peak_flops * assumptions.matmul_efficiency * faster
        self.grouped = gpu.peak_flops * assumptions.grouped_matmul_efficiency * faster
        self.attention_forward = gpu.peak_flops * assumptions.attention_forward_efficiency
        self.attention_backward = gpu.peak_flops * assumptions.attention_backward_efficiency
        self.memory = gpu.memory_bandwidth * assumptions.bandwidth_efficiency
        self.intra_node = gpu.intra_node_bandwidth * assumptions.intra_node_efficiency
        self.inter_node = gpu.inter_node_bandwidth * assumptions.inter_node_efficiency
        self.gpus_per_node = gpu.gpus_per_node
        self.one_copy_per_node = assumptions.one_copy_per_node

    def link(self, span: int) -> float:
        """Bytes/s between ranks of a group whose members lie within ``span`` consecutive GPUs."""
        return self.intra_node if span <= self.gpus_per_node else self.inter_node


def step_time(
    model: Architecture,
    layout: Layout,
    *,
    sequence_length: int,
    micro_batches: int,
    gpu: Gpu,
    assumptions: Assumptions,
    fp8: bool = False,
) -> StepTime:
    """Seconds of a step of ``micro_batches`` per data-parallel rank."""
    speeds = Speeds(gpu, assumptions, fp8=fp8)
    layers = {
        moe: layer_time(model, layout, sequence_length, moe=moe, speeds=speeds, assumptions=assumptions)
        for moe in (False, True)
    }
    tokens = sequence_length * layout.micro_batch_size / layout.context
    head = 2 * tokens * model.vocab_size * model.hidden_size / layout.tensor / speeds.matmul
    stages = []
    for stage in range(layout.pipeline):
        mine = [chunk for chunk in chunks_of(model, layout) if chunk.stage == stage]
        stages.append((_pass(layers, mine, layout, head), mine))
    parts, slowest = max(stages, key=lambda each: sum(each[0].values()))
    mean = sum(sum(each.values()) for each, _ in stages) / layout.pipeline
    transfer = _pipeline_transfer(model, layout, tokens, speeds)
    waiting = (layout.pipeline - 1) / layout.virtual_pipeline * (mean + transfer / max(layout.virtual_pipeline, 1))
    dense, routed = params_on_rank(model, layout, slowest)
    return StepTime(
        **{name: value * micro_batches for name, value in parts.items()},
        pipeline_transfer=transfer * micro_batches,
        bubble=waiting,
        data_parallel=_data_parallel(layout, dense, routed, sum(parts.values()), speeds),
        optimizer=_optimizer(layout, dense, routed, speeds),
    )


def _pass(layers: dict[bool, LayerTime], chunks: list[Chunk], layout: Layout, head: float) -> dict[str, float]:
    """Forward and backward of one micro-batch on one stage: the backward does every product twice."""
    sums: dict[str, float] = dict.fromkeys(
        ("matmuls", "experts", "attention", "elementwise", "recomputation", "overhead", "tensor_parallel", "all_to_all",
         "context_parallel"), 0.0)  # fmt: skip
    for moe, layer in layers.items():
        count = sum(chunk.num_moe_layers if moe else chunk.num_dense_layers for chunk in chunks)
        sums["matmuls"] += count * 3 * layer.matmuls
        sums["experts"] += count * 3 * layer.experts
        sums["attention"] += count * (layer.attention_forward + layer.attention_backward)
        sums["elementwise"] += count * 3 * layer.elementwise
        sums["overhead"] += count * 3 * layer.overhead
        sums["tensor_parallel"] += count * 2 * layer.tensor_parallel
        sums["all_to_all"] += count * 2 * layer.all_to_all
        sums["context_parallel"] += count * 2 * layer.context_parallel
        if layout.recompute == "full":
            again = layer.matmuls + layer.experts + layer.attention_forward + layer.elementwise + layer.overhead
            sums["recomputation"] += count * (again + layer.tensor_parallel + layer.all_to_all)
        elif layout.recompute == "selective":
            sums["recomputation"] += count * (layer.latent_up + layer.elementwise / 3)
    if any(chunk.has_head for chunk in chunks):
        sums["matmuls"] += 3 * head
    return sums


def layer_time(
    model: Architecture,
    layout: Layout,
    sequence_length: int,
    *,
    moe: bool,
    speeds: Speeds,
    assumptions: Assumptions,
) -> LayerTime:
    """One layer's forward pass for one micro-batch on one GPU."""
    tokens = sequence_length * layout.micro_batch_size / layout.context
    split = tokens / layout.tensor
    weights = counts.matmul_weights_of_layer(model, moe=moe)
    routed = weights.pop("routed_experts", 0)
    plain = sum(weights.values()) / layout.tensor
    matmuls = max(2 * tokens * plain / speeds.matmul, _BF16 * plain / speeds.memory)
    experts = 0.0
    if moe and routed:
        held = model.params_of_layer(moe=True)["routed_experts"] / (layout.expert * layout.expert_tensor)
        # Few tokens an expert: reading its weights takes longer than multiplying with them.
        experts = max(2 * split * routed / speeds.grouped, _BF16 * held / speeds.memory) * assumptions.time_imbalance
    products = tokens * counts.attention_flops_of_layer(model) * sequence_length / 2 / layout.tensor
    kept = kept_by_layer(model, layout, sequence_length, moe=moe)
    moved = kept.input + kept.norms + kept.attention + kept.ffn
    moved += 2 * kept.dispatched + kept.experts + kept.expert_products
    context = _context_parallel(model, layout, tokens, speeds)
    forward = products / speeds.attention_forward
    return LayerTime(
        matmuls=matmuls,
        experts=experts,
        attention_forward=forward,
        attention_backward=2.5 * products / speeds.attention_backward,  # five products where the forward has two
        elementwise=assumptions.elementwise_passes * _BF16 * moved / speeds.memory,
        overhead=assumptions.layer_overhead_seconds * (1.0 if moe else 0.3),
        tensor_parallel=_tensor_parallel(model, layout, tokens, speeds) * (1 - assumptions.tensor_parallel_hidden),
        all_to_all=_all_to_all(model, layout, split, speeds) * (1 - assumptions.all_to_all_hidden) if moe else 0.0,
        context_parallel=max(context - forward, 0.0),
        latent_up=_latent_up(model, tokens) / layout.tensor / speeds.matmul,
    )


def _latent_up(model: Architecture, tokens: float) -> float:
    """FLOPs of MLA's up-projections."""
    if model.attention != "mla":
        return 0.0
    qk = model.qk_nope_head_dim + model.qk_rope_head_dim
    key_value = model.kv_lora_rank * (model.qk_nope_head_dim + model.v_head_dim)
    return 2 * tokens * model.num_attention_heads * ((model.q_lora_rank or 0) * qk + key_value)


def _tensor_parallel(model: Architecture, layout: Layout, tokens: float, speeds: Speeds) -> float:
    """An all-gather and a reduce-scatter of the activations around attention and around the FFN."""
    share = (layout.tensor - 1) / layout.tensor
    return 4 * share * tokens * model.hidden_size * _BF16 / speeds.link(layout.tensor)


def _all_to_all(model: Architecture, layout: Layout, split: float, speeds: Speeds) -> float:
    """Sending each token's copies to its experts and back; what leaves the node goes over the network.

    Expert groups lie on consecutive GPUs (Megatron-LM's order of ranks), so the first ``gpus_per_node / expert_tensor``
    of them share a node. A token crosses to another node once, however many of its experts are there (DeepEP and
    HybridEP; arXiv 2412.19437, section 3.2.2), or once an expert. The two ways run at once; the slower one counts.
    """
    if layout.expert * layout.expert_tensor == 1:
        return 0.0
    near = min(layout.expert, max(speeds.gpus_per_node // layout.expert_tensor, 1))
    nodes = layout.expert / near
    row = 2 * split * model.hidden_size * _BF16
    inside = row * model.experts_per_token * (near - 1) / near
    if speeds.one_copy_per_node:
        crossings = (nodes - 1) * (1 - (1 - 1 / nodes) ** min(model.experts_per_token, model.num_experts))
    else:
        crossings = model.experts_per_token * (nodes - 1) / nodes
    gathered = row * model.experts_per_token * (layout.expert_tensor - 1)
    exchanged = max(inside / speeds.intra_node, row * crossings / speeds.inter_node)
    return exchanged + gathered / speeds.link(layout.expert_tensor)


def _context_parallel(model: Architecture, layout: Layout, tokens: float, speeds: Speeds) -> float:
    """Keys and values going round the ring."""
    if model.attention == "mla":
        width = model.num_attention_heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    else:
        width = 2 * model.num_key_value_heads * model.head_dim
    sent = (layout.context - 1) * tokens * width * _BF16 / layout.tensor
    return sent / speeds.link(layout.tensor * layout.context)


def _pipeline_transfer(model: Architecture, layout: Layout, tokens: float, speeds: Speeds) -> float:
    """Activations and their gradients over each of a stage's boundaries, for one micro-batch; half is hidden."""
    if layout.pipeline == 1:
        return 0.0
    sent = 2 * layout.virtual_pipeline * tokens * model.hidden_size * _BF16 / layout.tensor
    return 0.5 * sent / speeds.link(layout.gpus)


def _data_parallel(layout: Layout, dense: float, routed: float, micro_batch: float, speeds: Speeds) -> float:
    """Scattering fp32 gradients and gathering bf16 weights, less what the first and last micro-batch hide."""
    replicas = layout.gpus / (layout.tensor * layout.pipeline)
    expert_replicas = layout.gpus / (layout.expert * layout.expert_tensor * layout.pipeline)
    moved = dense * (replicas - 1) / replicas + routed * (expert_replicas - 1) / expert_replicas
    speed = speeds.link(layout.gpus // layout.pipeline)
    backward, forward = micro_batch * 2 / 3, micro_batch / 3
    scattered = max(GRADIENT_BYTES * moved / speed - backward, 0.0)
    return scattered + max(WEIGHT_BYTES * moved / speed - forward, 0.0)


def _optimizer(layout: Layout, dense: float, routed: float, speeds: Speeds) -> float:
    """Reading and writing the states of this rank's shard once."""
    replicas = layout.gpus / (layout.tensor * layout.pipeline)
    expert_replicas = layout.gpus / (layout.expert * layout.expert_tensor * layout.pipeline)
    held = dense / replicas + routed / expert_replicas
    return (2 * OPTIMIZER_BYTES + GRADIENT_BYTES + WEIGHT_BYTES) * held / speeds.memory
