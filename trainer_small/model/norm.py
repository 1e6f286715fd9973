"""RMSNorm (arXiv 1910.07467) with a backward of few passes: eager small models are bound by the number of ops."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * weight`` over the last dimension; statistics in at least float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return _RMSNorm.apply(x, self.weight, self.eps)
        models, size = self.weight.shape  # a stack
        return _RMSNorm.apply(x.reshape(models, -1, size), self.weight.unsqueeze(1), self.eps).view(x.shape)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = wide * inverse
        # A narrow input is half of what it is when normal and wide, and is made so again in one pass.
        ctx.save_for_backward(normal if x.dtype == wide.dtype else x, inverse, weight)
        out = normal * weight
        return out if out.dtype == x.dtype else out.to(x.dtype)  # for torch 2.11: see ``rotary.turned``

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        kept, inverse, weight = ctx.saved_tensors
        normal = kept if kept.dtype == inverse.dtype else kept.to(inverse.dtype) * inverse
        size = normal.shape[-1]
        wide = grad.to(normal.dtype)
        product = wide * normal
        grad_weight = product.sum_to_size(weight.shape)
        # A stack's sum must not depend on how many models it has, as a batched product's would.
        along = product @ weight if weight.dim() == 1 else torch.linalg.vecdot(product, weight)
        along = along.div_(size).unsqueeze(-1)  # the part of the gradient that only rescales x
        grad_x = (wide * weight).addcmul_(normal, along, value=-1).mul_(inverse)
        return grad_x.to(grad.dtype), grad_weight, None
