"""The SwiGLU block (arXiv 2002.05202) of dense layers and shared experts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer_small.model.attention import linear


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``; gate and up are one matrix, gate's rows first."""

    def __init__(self, hidden_size: int, ffn_size: int, bias: bool) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden_size, 2 * ffn_size, bias=bias)
        self.down_proj = nn.Linear(ffn_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear(swiglu(linear(x, self.gate_up_proj)), self.down_proj)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``[rows, 2 * size]``."""
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    return _SwiGLU.apply(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        activated_gate = F.silu(gate)
        ctx.save_for_backward(gate_up, activated_gate)
        return activated_gate * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, activated_gate = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, -1)
        torch.mul(grad, activated_gate, out=grad_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        return out
