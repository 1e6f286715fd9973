"""Tokens to experts and back: three ways with one result.

``loop`` is the definition, by plain autograd. ``sorted`` is for CPUs, ``grouped`` for GPUs. All are dropless, and
their combine gathers by the inverse permutation and sums over k in a fixed order, so it is deterministic everywhere.
"""

from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_small.feedforward import swiglu, swiglu_backward

Dispatch = Literal["loop", "sorted", "grouped"]

_ROWS = 16
"""Groups are padded to a multiple of this: oneDNN builds a new kernel for every size it meets."""


def apply_experts(
    x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, dispatch: Dispatch
) -> Tensor:
    """Sum over each token's experts of gate times SwiGLU block.

    Args:
        x: ``[n, hidden]``.
        indices, weights: ``[n, k]`` experts and gates.
        gate_up: ``[experts, 2 * size, hidden]``; down: ``[experts, hidden, size]``; of x's type.

    Returns:
        ``[n, hidden]``.
    """
    weights = weights.to(x.dtype)
    if dispatch == "loop":
        return _loop(x, indices, weights, gate_up, down)
    if dispatch == "sorted":
        return _SortedExperts.apply(x, indices, weights, gate_up, down)
    return _grouped(x, indices, weights, gate_up, down)


def _loop(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for expert in range(len(gate_up)):
        token, choice = torch.where(indices == expert)
        hidden = swiglu(F.linear(x[token], gate_up[expert]))
        out = out.index_add(0, token, F.linear(hidden, down[expert]) * weights[token, choice].unsqueeze(-1))
    return out


class _SortedExperts(torch.autograd.Function):
    """Rows sorted by expert, each group padded with rows of weight 0; one product a group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        experts, hidden_size, size = down.shape
        position, bounds = _padded_layout(indices, experts)
        rows = bounds[-1]
        token = torch.zeros(rows, dtype=torch.int64)  # padding repeats token 0 with weight 0
        token[position] = torch.arange(len(x)).repeat_interleave(indices.shape[1])
        row_weight = x.new_zeros(rows, 1)
        row_weight[position, 0] = weights.flatten()

        gathered = x.index_select(0, token)
        products = x.new_empty(rows, 2 * size)
        for expert, (start, end) in enumerate(pairwise(bounds)):
            torch.mm(gathered[start:end], gate_up[expert].T, out=products[start:end])
        gate, up = products.chunk(2, -1)
        activated_gate = F.silu(gate)
        activated = activated_gate * up
        weighted = activated * row_weight
        outputs = x.new_empty(rows, hidden_size)
        for expert, (start, end) in enumerate(pairwise(bounds)):
            torch.mm(weighted[start:end], down[expert].T, out=outputs[start:end])
        rows_of = gathered, products, activated_gate, activated, weighted, row_weight
        ctx.save_for_backward(*rows_of, token, position, gate_up, down)
        ctx.bounds, ctx.choices = bounds, indices.shape
        return _combine(outputs, position, indices.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
        gathered, products, activated_gate, activated, weighted, row_weight = ctx.saved_tensors[:6]
        token, position, gate_up, down = ctx.saved_tensors[6:]
        bounds = ctx.bounds
        grad_rows = grad.index_select(0, token)
        grad_weighted = torch.empty_like(activated)
        grad_down = torch.empty_like(down)
        for expert, (start, end) in enumerate(pairwise(bounds)):
            torch.mm(grad_rows[start:end], down[expert], out=grad_weighted[start:end])
            torch.mm(grad_rows[start:end].T, weighted[start:end], out=grad_down[expert])
        grad_weights = (grad_weighted * activated).sum(-1)[position].view(ctx.choices)
        grad_products = swiglu_backward(grad_weighted.mul_(row_weight), products, activated_gate)
        grad_gathered = torch.empty_like(gathered)
        grad_gate_up = torch.empty_like(gate_up)
        for expert, (start, end) in enumerate(pairwise(bounds)):
            torch.mm(grad_products[start:end], gate_up[expert], out=grad_gathered[start:end])
            torch.mm(grad_products[start:end].T, gathered[start:end], out=grad_gate_up[expert])
        return _combine(grad_gathered, position, ctx.choices[1]), None, grad_weights, grad_gate_up, grad_down


def _padded_layout(indices: Tensor, experts: int) -> tuple[Tensor, list[int]]:
    """The padded row of every (token, choice), ``[n * k]``, and each group's bounds, ``experts + 1`` numbers."""
    flat = indices.flatten()
    counts = torch.bincount(flat, minlength=experts)
    padded = (counts + (_ROWS - 1)) // _ROWS * _ROWS
    ends = padded.cumsum(0)
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    order = flat.argsort(stable=True)
    position = torch.empty_like(flat)
    position[order] = torch.arange(len(flat)) + shift.index_select(0, flat.index_select(0, order))
    return position, [0, *ends.tolist()]


def _combine(rows: Tensor, position: Tensor, k: int) -> Tensor:
    """Sum of each token's k rows, in a fixed order: a gather, never a scatter."""
    if rows.is_cpu:
        return F.embedding_bag(position.view(-1, k), rows, mode="sum")  # one pass, no copy of the rows
    return rows.index_select(0, position).view(-1, k, rows.shape[-1]).sum(1)


def _grouped(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    flat = indices.flatten()
    order = flat.argsort(stable=True)
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # No count leaves the device: the group ends stay a tensor.
    ends = torch.searchsorted(flat[order], torch.arange(len(gate_up), device=x.device), right=True).to(torch.int32)
    gathered = _Spread.apply(x, order // indices.shape[1], position, indices.shape[1])
    products = F.grouped_mm(gathered, gate_up.mT, offs=ends)
    weighted = swiglu(products) * _Permute.apply(weights.flatten(), order, position).unsqueeze(-1)
    outputs = F.grouped_mm(weighted, down.mT, offs=ends)
    return _Gather.apply(outputs, order // indices.shape[1], position, indices.shape[1])


class _Spread(torch.autograd.Function):
    """A copy of each token for each of its experts; the backward sums them without atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, position: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(position)
        ctx.k = k
        return x.index_select(0, token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _combine(grad, ctx.saved_tensors[0], ctx.k), None, None, None


class _Gather(torch.autograd.Function):
    """The transpose of ``_Spread``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, position: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(token)
        return _combine(rows, position, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None, None


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(position)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None
