"""Cross-entropy through the head, in chunks: no full table of logits, gradients made in the forward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ENTRIES = 2**19
"""Logits held at a time: 2 MiB of float32 stays in a CPU's cache; a GPU takes 64 times as many."""


def linear_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        hidden: ``[n, hidden_size]``; head: ``[vocab_size, hidden_size]``; targets: ``[n]`` token ids.

    Returns:
        A scalar in at least float32; softmax and sums are in that type for bfloat16 activations too.
    """
    return _LinearCrossEntropy.apply(hidden, head, targets)


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, nats, ``[n]``."""
    weight = head.to(hidden.dtype)
    losses = [_chunk(hidden[rows], weight, targets[rows])[0] for rows in _chunks(len(hidden), len(head), hidden.device)]
    return torch.cat(losses)


def _chunks(rows: int, vocab_size: int, device: torch.device) -> list[slice]:
    entries = _CHUNK_ENTRIES * (64 if device.type == "cuda" else 1)
    size = max(16, entries // vocab_size)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses ``[rows]`` and probabilities ``[rows, vocab_size]``."""
    logits = hidden @ weight.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    largest = logits.amax(-1)
    probabilities = torch.softmax(logits, -1)
    # log Z = largest logit - log of its probability: one exponential a logit instead of two.
    return largest - probabilities.amax(-1).log() - picked, probabilities


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        weight = head.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head)
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for rows in _chunks(len(hidden), len(head), hidden.device):
            loss, grad = _chunk(hidden[rows], weight, targets[rows])
            total += loss.sum()
            index = targets[rows].unsqueeze(1)
            grad.scatter_(1, index, grad.gather(1, index) - 1)
            grad = grad.to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[rows])
            if grad_head.dtype == grad.dtype:
                grad_head.addmm_(grad.T, hidden[rows])
            else:
                grad_head += grad.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.count = len(hidden)
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        scale = grad / ctx.count
        return grad_hidden * scale.to(grad_hidden.dtype), grad_head * scale.to(grad_head.dtype), None
