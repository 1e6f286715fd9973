"""Experts on a CPU: groups of rows padded to even sizes, and their products as operators of their own.

How many rows an expert gets is known only at run time, and a compiled graph must not look. So buffers have the
largest size that can be needed, and operators that the compiler does not look into lay the groups out and multiply
group by group. Everything between them is plain PyTorch that it fuses.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 16
"""Groups are padded to a multiple of this: oneDNN builds a new kernel for every size it meets."""


def most_rows(choices: int, experts: int) -> int:
    """Rows that hold ``choices`` tokens in ``experts`` padded groups, however they fall."""
    return (choices + min(choices, experts) * (ROWS - 1)) // ROWS * ROWS


@torch.library.custom_op("trainer_small::lay_out", mutates_args=())
def lay_out(indices: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where each (token, choice) of ``indices [n, k]`` stands when rows are sorted by expert in padded groups.

    Returns:
        position ``[n * k]``: row of every (token, choice); choice ``[most_rows]``: the (token, choice) of every row,
        ``n * k`` where it is padding; token ``[most_rows]``: the token of every row, where it is padding one of its
        group (a number that is not one must not leave its model); bounds ``[experts + 1]``: where groups start and end.
    """
    flat = indices.flatten()
    counts = torch.bincount(flat, minlength=experts)
    padded = (counts + (ROWS - 1)) // ROWS * ROWS
    ends = padded.cumsum(0)
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    order = flat.argsort(stable=True)
    row = torch.arange(len(flat)) + shift.index_select(0, flat.index_select(0, order))
    position = torch.empty_like(flat)
    position[order] = row
    choice = torch.full((most_rows(len(flat), experts),), len(flat))
    choice[row] = order
    first = order[(counts.cumsum(0) - counts).clamp(max=max(len(flat) - 1, 0))] if len(flat) else counts
    token = torch.zeros_like(choice)
    token[: int(ends[-1])] = first.repeat_interleave(padded)
    token[row] = order
    return position, choice, token // indices.shape[1], F.pad(ends, (1, 0))


@lay_out.register_fake
def _(indices: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = most_rows(indices.numel(), experts)
    position, choice, token, bounds = (indices.new_empty(size) for size in (indices.numel(), rows, rows, experts + 1))
    return position, choice, token, bounds


@torch.library.custom_op("trainer_small::group_products", mutates_args=())
def group_products(rows: Tensor, weight: Tensor, bounds: Tensor) -> Tensor:
    """``rows[group] @ weight[group]`` for rows ``[r, in]``, weight ``[groups, in, out]``; the rest is undefined."""
    out = rows.new_empty(len(rows), weight.shape[2])
    for group, (start, end) in enumerate(pairwise(bounds.tolist())):
        if end > start:
            torch.mm(rows[start:end], weight[group], out=out[start:end])
    return out


@group_products.register_fake
def _(rows: Tensor, weight: Tensor, bounds: Tensor) -> Tensor:
    return rows.new_empty(len(rows), weight.shape[2])


@torch.library.custom_op("trainer_small::group_outer_products", mutates_args=())
def group_outer_products(left: Tensor, right: Tensor, bounds: Tensor) -> Tensor:
    """``left[group].T @ right[group]`` for left ``[r, a]`` and right ``[r, b]``: ``[groups, a, b]``."""
    out = left.new_empty(len(bounds) - 1, left.shape[1], right.shape[1])
    for group, (start, end) in enumerate(pairwise(bounds.tolist())):
        torch.mm(left[start:end].T, right[start:end], out=out[group])
    return out


@group_outer_products.register_fake
def _(left: Tensor, right: Tensor, bounds: Tensor) -> Tensor:
    return left.new_empty(len(bounds) - 1, left.shape[1], right.shape[1])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _products_backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    rows, weight, bounds = ctx.saved_tensors
    # The weight's memory is [groups, out, in]: its gradient is made in that order and turned.
    grad_weight = group_outer_products(grad, rows, bounds).mT
    return group_products(grad, weight.mT, bounds), grad_weight, None


group_products.register_autograd(_products_backward, setup_context=_save)
