"""How long a training step takes on a GPU, by what bounds it: launches from the host, memory traffic, or products.

A model in closed form, which has not been held against a card yet. Its parts: the host launches one operator after
another while the device works; each product takes what its FLOPs take at the rate of a large one, or what its operands
take to be read and written; everything else is traffic. No torch here.
"""

from dataclasses import dataclass
from typing import Literal

from trainer_small.config import RunSpec

Bound = Literal["launches", "traffic", "products"]

_LAUNCH_SECONDS = 8e-6
"""Of one operator, through Python, autograd and the launch: an assumption, 125,000 a second."""
_LAYER_LAUNCHES = {"eager": 200, "compiled": 70}
"""Of a layer with experts, forward and backward. Eager as ``benchmarks/gpu/operators.py`` counts (197 to 211); compiled
the products, attention, sort and what is fused between them: an estimate."""
_OTHER_LAUNCHES, _OPTIMIZER_LAUNCHES = 60, {"adamw": 25, "muon": 300}
"""Embedding, last norm and loss of a part of a batch; clipping and optimizer of a step (``operators.py``)."""
_PRODUCT_SHARE = 0.78
"""Of the data sheet's peak that a large bf16 product reached on one H200 (769 to 798 of 989 TFLOP/s)."""
_BANDWIDTH_SHARE = 0.9
"""Of the data sheet's bandwidth that a copy reached there (4.3 of 4.8 TB/s)."""
_BEYOND = 2.0
"""Published trainers of fine-grained experts take about twice what such bounds allow: 34 to 35 % of an H100 at a width
of 1,152 to 2,560 where bounds said 65 to 69 % (nanochat's log of 2026-02-19; marin, issue 6979)."""
_GROUP_ROWS = 128
"""Rows that a grouped product works on at a time: experts of fewer cost as many."""
_PART_TOKENS = 2**16
"""Tokens at a time, where the run names no micro-batch."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, and what they would be by each bound alone."""

    seconds: float
    launches: float
    traffic: float
    products: float

    @property
    def bound(self) -> Bound:
        parts: dict[Bound, float] = {
            "launches": self.launches,
            "traffic": self.traffic,
            "products": self.products,
        }
        return max(parts, key=lambda name: parts[name])


def step_time(run: RunSpec, peak_flops: float, memory_bandwidth: float) -> StepTime:
    """One step of the full batch.

    Args:
        peak_flops: dense bf16 FLOP/s by the data sheet; memory_bandwidth: bytes/s by the data sheet.
    """
    training = run.training
    tokens = min(training.micro_batch_tokens or _PART_TOKENS, training.batch_tokens)
    parts = training.batch_tokens / tokens
    flops_rate, bandwidth = _PRODUCT_SHARE * peak_flops, _BANDWIDTH_SHARE * memory_bandwidth

    part_launches = _LAUNCH_SECONDS * _part_launches(run)
    part_products, part_reads = _products(run, tokens, flops_rate, bandwidth)
    part_traffic = part_reads + _part_bytes(run, tokens) / bandwidth
    end_launches = _LAUNCH_SECONDS * _OPTIMIZER_LAUNCHES[training.optimizer]
    end_products, end_traffic = _orthogonalizing_flops(run) / flops_rate, _end_bytes(run) / bandwidth

    launches = parts * part_launches + end_launches
    traffic = _BEYOND * (parts * part_traffic + end_traffic)
    products = _BEYOND * (parts * part_products + end_products)
    part = max(part_launches, _BEYOND * (part_products + part_traffic))
    end = max(end_launches, _BEYOND * (end_products + end_traffic))
    return StepTime(parts * part + end, launches, traffic, products)


def _part_launches(run: RunSpec) -> float:
    layers = run.architecture.num_layers + run.architecture.num_nextn_predict_layers
    layer = _LAYER_LAUNCHES["compiled" if run.compile else "eager"]
    again = 4 / 3 if run.activation_checkpointing else 1.0
    return again * layers * layer + _OTHER_LAUNCHES


def _products(run: RunSpec, tokens: int, flops_rate: float, bandwidth: float) -> tuple[float, float]:
    """Seconds of a part's products, forward and backward: by their FLOPs, and what operands add where these bound."""
    a, length = run.architecture, run.training.sequence_length
    d, moe, dense = a.hidden_size, a.num_moe_layers, a.num_layers - a.num_moe_layers
    heads = a.num_attention_heads
    width = a.qk_nope_head_dim + a.qk_rope_head_dim + a.v_head_dim if a.attention == "mla" else 2 * a.head_dim
    # How often, rows, weights [in, out] as (count, in, out).
    kinds: list[tuple[float, float, float, float]] = [
        (a.num_layers, tokens, d, a.params_by_role()["attention"] / a.num_layers / d),
        (1, tokens, d, a.vocab_size),
    ]
    if dense:
        kinds += [(dense, tokens, d, 2 * a.dense_ffn_size), (dense, tokens, a.dense_ffn_size, d)]
    if moe:
        rows = tokens * a.experts_per_token / a.num_experts
        rows = max(rows, min(_GROUP_ROWS, tokens))
        experts = moe * a.num_experts
        kinds += [(experts, rows, d, 2 * a.expert_ffn_size), (experts, rows, a.expert_ffn_size, d)]
        shared = a.num_shared_experts * a.shared_expert_ffn_size
        if shared:
            kinds += [(moe, tokens, d, 2 * shared), (moe, tokens, shared, d)]
        kinds.append((moe, tokens, d, a.num_experts))
    passes = 4 if run.activation_checkpointing else 3
    flops = reads = 0.0
    for count, rows, inner, outer in kinds:
        by_flops = 2 * rows * inner * outer / flops_rate
        by_bytes = 2 * (rows * inner + inner * outer + rows * outer) / bandwidth
        flops += passes * count * by_flops
        reads += passes * count * max(0.0, by_bytes - by_flops)
    # Attention never writes its scores; its backward makes them again.
    flops += (passes + 0.5) * a.num_layers * 2 * heads * width * length / 2 * tokens / flops_rate
    return flops, reads


def _part_bytes(run: RunSpec, tokens: int) -> float:
    """Besides the products: norms, gates, rotations, rows to experts and back, the loss; and weights made narrow, their
    gradients made and added up."""
    a = run.architecture
    routed = a.experts_per_token * (4 * a.hidden_size + 8 * a.expert_ffn_size)
    shared = a.num_shared_experts * 6 * a.shared_expert_ffn_size
    share = a.num_moe_layers / a.num_layers
    layer = 14 * a.hidden_size + share * (routed + shared) + (1 - share) * 6 * a.dense_ffn_size
    fused = 1.0 if run.compile else 2.5
    passes = 4 if run.activation_checkpointing else 3
    activations = 2 * passes * fused * a.num_layers * layer * tokens + 12 * a.vocab_size * tokens
    return activations + 18 * a.params_total


def _end_bytes(run: RunSpec) -> float:
    """Clipping reads and scales gradients; AdamW reads and writes the parameter and two moments, Muon one."""
    return (36 if run.training.optimizer == "muon" else 40) * run.architecture.params_total


def _orthogonalizing_flops(run: RunSpec) -> float:
    """Muon's five steps of Newton-Schulz, each three products, of the matrices of attention and experts."""
    if run.training.optimizer != "muon":
        return 0.0
    a = run.architecture

    def of(rows: int, columns: int) -> float:
        least, most = min(rows, columns), max(rows, columns)
        return 5 * (4 * least**2 * most + 2 * least**3)

    experts = a.num_moe_layers * a.num_experts * 3 * of(a.hidden_size, a.expert_ffn_size) if a.is_moe else 0.0
    return experts + a.num_layers * 4 * of(a.hidden_size, a.hidden_size)
