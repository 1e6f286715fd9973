"""Expert parallelism: every token's row travels to the rank that has its expert, and back (arXiv 2006.16668).

Dropless: how many rows go where is known only when the router has chosen, so the counts travel first.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_small.model.dispatch import Dispatch, Gather, Permute, Spread, apply_experts


class ExpertExchange:
    """Routed experts of which this rank keeps one part in ``ranks``, in order of the ranks of ``group``."""

    def __init__(self, group: dist.ProcessGroup, ranks: int) -> None:
        self._group, self._ranks = group, ranks

    def apply_experts(
        self, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, dispatch: Dispatch
    ) -> Tensor:
        """``dispatch.apply_experts`` for this rank's tokens; ``gate_up`` and ``down`` are of this rank's experts."""
        own, k = len(down), indices.shape[1]
        chosen = indices.flatten()
        order = chosen.argsort(stable=True)
        position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        leaving = torch.zeros(self._ranks * own, dtype=torch.int64, device=x.device)
        leaving = leaving.scatter_add_(0, chosen, torch.ones_like(chosen)).view(self._ranks, own)
        arriving = torch.empty_like(leaving)
        dist.all_to_all_single(arriving, leaving, group=self._group)
        # How many rows travel the host must know: it waits here, once.
        sent, received = torch.stack((leaving.sum(1), arriving.sum(1))).tolist()

        rows = _Exchange.apply(Spread.apply(x, order // k, position, k), sent, received, self._group)
        expert = torch.arange(own, device=x.device).repeat(self._ranks)
        expert = expert.repeat_interleave(arriving.flatten(), output_size=sum(received))
        # One row of zeros more, which comes out as zeros: a rank that no token comes to has gradients all the same.
        rows, expert = F.pad(rows, (0, 0, 0, 1)), F.pad(expert, (0, 1)).unsqueeze(1)
        outputs = apply_experts(rows, expert, rows.new_ones(expert.shape), gate_up, down, dispatch)[:-1]
        back = _Exchange.apply(outputs, received, sent, self._group)
        gates = Permute.apply(weights.to(x.dtype).flatten(), order, position)
        return Gather.apply(back * gates.unsqueeze(-1), order // k, position, k)


class _Exchange(torch.autograd.Function):
    """Rows in order of their rank of destination to rows in order of their rank of origin."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grad, ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    out = rows.new_empty(sum(received), rows.shape[1])
    dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
    return out
