"""What one GPU of a cluster reaches under the assumptions: FLOP/s and bytes/s."""

from typing import Any

from scaling.cluster.hardware import Gpu
from scaling.cluster.layout.assumptions import Assumptions
from scaling.cluster.layout.memory import Precision


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
