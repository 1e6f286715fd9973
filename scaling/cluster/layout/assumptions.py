"""The assumptions of the memory and time model, from ``assumptions.yaml``, and what a GPU reaches by them."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from fits.schema import Schema
from scaling.cluster.hardware import Gpu

Precision = Literal["bf16", "fp8", "fp32"]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Schema):
    """What the data sheets do not say; meanings, units and reasons stand beside the values in ``assumptions.yaml``."""

    schema_version: Literal[1] = 1
    weight_bytes: PositiveFloat
    gradient_bytes: PositiveFloat
    optimizer_bytes: PositiveFloat
    sharded_optimizer: bool
    usable_memory: Fraction
    expert_imbalance: float = Field(ge=1)
    logit_bytes: float = Field(ge=0)
    matmul_efficiency: Fraction
    grouped_matmul_efficiency: Fraction
    attention_forward_efficiency: Fraction
    attention_backward_efficiency: Fraction
    fp8_speedup: PositiveFloat
    fp8_grouped_speedup: PositiveFloat
    bandwidth_efficiency: Fraction
    elementwise_passes: PositiveFloat
    layer_overhead_seconds: float = Field(ge=0)
    time_imbalance: float = Field(ge=1)
    intra_node_efficiency: Fraction
    inter_node_efficiency: Fraction
    collective_latency_seconds: float = Field(ge=0)
    one_copy_per_node: bool
    all_to_all_hidden: float = Field(ge=0, le=1)
    tensor_parallel_hidden: float = Field(ge=0, le=1)
    pipeline_hidden: float = Field(ge=0, le=1)


@cache
def usual_assumptions() -> Assumptions:
    """Those of the package's own file."""
    return Assumptions.load(Path(__file__).with_name("assumptions.yaml"))


class Speeds:
    """Speeds of products, memory and links."""

    def __init__(self, gpu: Gpu, assumptions: Assumptions, precision: Precision) -> None:
        halved = 0.5 if precision == "fp32" else 1.0  # fp32 runs as TF32
        fp8 = precision == "fp8"
        self.element = 4.0 if precision == "fp32" else 2.0
        """Bytes of an activation."""
        self.matmul = gpu.peak_flops * assumptions.matmul_efficiency * (assumptions.fp8_speedup if fp8 else halved)
        self.grouped = gpu.peak_flops * assumptions.grouped_matmul_efficiency
        self.grouped *= assumptions.fp8_grouped_speedup if fp8 else halved
        self.attention_forward = gpu.peak_flops * assumptions.attention_forward_efficiency * halved
        self.attention_backward = gpu.peak_flops * assumptions.attention_backward_efficiency * halved
        self.memory = gpu.memory_bandwidth * assumptions.bandwidth_efficiency
        self.intra_node = gpu.intra_node_bandwidth * assumptions.intra_node_efficiency
        self.inter_node = gpu.inter_node_bandwidth * assumptions.inter_node_efficiency
        self.gpus_per_node = gpu.gpus_per_node

    def link(self, span: Any) -> Any:
        """Bytes/s between ranks of a group whose members lie within ``span`` consecutive GPUs."""
        import numpy as np

        return np.where(np.asarray(span) <= self.gpus_per_node, self.intra_node, self.inter_node)
