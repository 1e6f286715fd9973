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

from trainer_small.model.feedforward import swiglu
from trainer_small.model.padded_groups import group_products, lay_out

Dispatch = Literal["loop", "sorted", "grouped"]
_MOST_GROUPS = 1023
"""That one ``grouped_mm`` on CUDA takes."""


def apply_experts(
    x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, dispatch: Dispatch
) -> Tensor:
    """Sum over each token's experts of gate times SwiGLU block.

    Args:
        x: ``[n, hidden]``.
        indices, weights: ``[n, k]`` experts and gates.
        gate_up: ``[experts, 2 * size, hidden]``; down: ``[experts, hidden, size]``; of x's type.

    A stack of models has one more axis before all of them; the experts of all models are then one set of groups.

    Returns:
        ``[n, hidden]``.
    """
    if x.dim() == 3:
        return _stacked(x, indices, weights, gate_up, down, dispatch=dispatch)
    weights = weights.to(x.dtype)
    if dispatch == "loop":
        return _loop(x, indices, weights, gate_up, down)
    if dispatch == "sorted":
        return _sorted(x, indices, weights, gate_up, down)
    return _grouped(x, indices, weights, gate_up, down)


def _stacked(
    x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, *, dispatch: Dispatch
) -> Tensor:
    models, experts = gate_up.shape[:2]
    at_once = max(1, _MOST_GROUPS // experts)
    if dispatch == "grouped" and models > at_once:
        parts = zip(*(part.split(at_once) for part in (x, indices, weights, gate_up, down)), strict=True)
        return torch.cat([_stacked(*part, dispatch=dispatch) for part in parts])
    own = indices + torch.arange(0, models * experts, experts, device=x.device).view(-1, 1, 1)
    rows, own, weights, gate_up, down = (part.flatten(0, 1) for part in (x, own, weights, gate_up, down))
    return apply_experts(rows, own, weights, gate_up, down, dispatch).view(x.shape)


def _loop(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for expert in range(len(gate_up)):
        token, choice = torch.where(indices == expert)
        hidden = swiglu(F.linear(x[token], gate_up[expert]))
        out = out.index_add(0, token, F.linear(hidden, down[expert]) * weights[token, choice].unsqueeze(-1))
    return out


def _combine(rows: Tensor, position: Tensor, k: int) -> Tensor:
    """Sum of each token's k rows, in a fixed order: a gather, never a scatter."""
    if rows.is_cpu and not torch.compiler.is_compiling():
        return F.embedding_bag(position.view(-1, k), rows, mode="sum")  # one pass, no copy of the rows
    return rows.index_select(0, position).view(-1, k, rows.shape[-1]).sum(1)


def _sorted(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    k = indices.shape[1]
    position, choice, token, bounds = lay_out(indices, len(gate_up))
    # Padding repeats a token with weight 0: it adds nothing to any gradient.
    row_weight = Permute.apply(F.pad(weights.flatten(), (0, 1)), choice, F.pad(position, (0, 1)))
    gathered = Spread.apply(x, token, position, k)
    weighted = swiglu(group_products(gathered, gate_up.mT, bounds)) * row_weight.unsqueeze(-1)
    return Gather.apply(group_products(weighted, down.mT, bounds), token, position, k)


def _grouped(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    hidden, size = down.shape[1:]
    whole = 16 // x.element_size()  # the kernel wants rows of whole 16 bytes
    if hidden % whole or size % whole:
        wider, larger = -hidden % whole, -size % whole
        gate_up = F.pad(gate_up.unflatten(1, (2, size)), (0, wider, 0, larger)).flatten(1, 2)
        down = F.pad(down, (0, larger, 0, wider))
        return _grouped(F.pad(x, (0, wider)), indices, weights, gate_up, down)[:, :hidden]
    flat = indices.flatten()
    order = flat.to(torch.int16).argsort(stable=True)  # a GPU sorts byte by byte
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # No count leaves the device: the group ends stay a tensor.
    ends = torch.searchsorted(flat[order], torch.arange(len(gate_up), device=x.device), right=True).to(torch.int32)
    gathered = Spread.apply(x, order // indices.shape[1], position, indices.shape[1])
    products = _grouped_products(gathered, gate_up.mT, ends)
    weighted = swiglu(products) * Permute.apply(weights.flatten(), order, position).unsqueeze(-1)
    outputs = _grouped_products(weighted, down.mT, ends)
    return Gather.apply(outputs, order // indices.shape[1], position, indices.shape[1])


def _grouped_products(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if rows.dtype == torch.float64:  # which the kernel does not know
        bounds = pairwise([0, *ends.tolist()])
        return torch.cat([rows[start:end] @ own for (start, end), own in zip(bounds, weight, strict=True)])
    if len(weight) <= _MOST_GROUPS:
        return F.grouped_mm(rows, weight, offs=ends)
    # In parts: where the rows of a part begin only the device knows, so each takes all rows, those of other parts with
    # a matrix of zeros. So many experts are rare, and small.
    out, nothing = None, weight.new_zeros(1, *weight.shape[1:])
    for first in range(0, len(weight), _MOST_GROUPS - 2):
        part = slice(first, first + _MOST_GROUPS - 2)
        before = ends[first - 1 : first] if first else ends.new_zeros(1)
        bounds = torch.cat((before, ends[part], ends[-1:]))
        product = F.grouped_mm(rows, torch.cat((nothing, weight[part], nothing)), offs=bounds)
        out = product if out is None else out + product
    assert out is not None
    return out


class Spread(torch.autograd.Function):
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


class Gather(torch.autograd.Function):
    """The transpose of ``Spread``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, position: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(token)
        return _combine(rows, position, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None, None


class Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(position)
        return x.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None
