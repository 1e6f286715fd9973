"""Rotary position embeddings (arXiv 2104.09864) in the Hugging Face layout: halves rotate against each other."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotary_table(length: int, size: int, theta: float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Cosines and signed sines, each ``[length, 1, size]``: broadcast over heads in ``[..., length, heads, size]``."""
    # In float64, so that every dtype gets the rounded true angle.
    powers = torch.arange(0, size, 2, dtype=torch.float64, device=device) / size
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] * theta**-powers
    cos, sin = angles.cos(), angles.sin()
    table = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return tuple(part.to(dtype).unsqueeze(1) for part in table)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x`` rotated by the table, outside autograd; the transpose is the same with ``-sin``.

    Not in place: to the compiler of torch 2.11 a function has no gradient when the last operator of its forward returns
    a tensor that was there before.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x [..., length, heads, size]`` by its position."""
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turned(grad, cos, -sin), None, None
