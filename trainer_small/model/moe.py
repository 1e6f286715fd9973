"""The mixture-of-experts block: routed experts, shared experts, and an optional norm on their sum."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer_small.architecture import Architecture
from trainer_small.model.attention import linear
from trainer_small.model.dispatch import Dispatch, apply_experts
from trainer_small.model.feedforward import FeedForward
from trainer_small.model.norm import RMSNorm
from trainer_small.model.router import Router, Routing


class MixtureOfExperts(nn.Module):
    def __init__(self, architecture: Architecture, dispatch: Dispatch) -> None:
        super().__init__()
        a = architecture
        self.dispatch: Dispatch = dispatch
        self.experts: Callable[..., Tensor] = apply_experts
        """Another function where the experts are spread over ranks; the two matrices are then this rank's part."""
        self.router = Router(a)
        self.gate_up_proj = nn.Parameter(torch.empty(a.num_experts, 2 * a.expert_ffn_size, a.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(a.num_experts, a.hidden_size, a.expert_ffn_size))
        shared = a.num_shared_experts * a.shared_expert_ffn_size
        self.shared_experts = FeedForward(a.hidden_size, shared, a.dense_ffn_bias) if shared else None
        self.shared_gate = nn.Linear(a.hidden_size, 1, bias=False) if a.shared_expert_gate else None
        self.output_norm = RMSNorm(a.hidden_size, a.norm_eps) if a.moe_output_norm else None

    def forward(self, x: Tensor, sequences: int = 1) -> tuple[Tensor, Routing]:
        """``x [n, hidden]``, of so many sequences, to the same shape; and what the router did."""
        routing = self.router(x, sequences)
        gate_up, down = self.gate_up_proj.to(x.dtype), self.down_proj.to(x.dtype)
        out = self.experts(x, routing.indices, routing.weights, gate_up, down, self.dispatch)
        if self.shared_experts is not None:
            shared = self.shared_experts(x)
            if self.shared_gate is not None:
                shared = shared * linear(x, self.shared_gate).sigmoid()
            out = out + shared
        if self.output_norm is not None:
            out = self.output_norm(out)
        return out, routing

    @staticmethod
    def expert_parameters() -> tuple[str, ...]:
        """The parameters whose first index is the expert."""
        return "gate_up_proj", "down_proj"
