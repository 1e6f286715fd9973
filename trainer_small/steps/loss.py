"""Cross-entropy through the head, in chunks: no full table of logits, gradients made in the forward pass."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_small.machine.run_memory import FEWEST_ROWS, LOGITS_CACHED, LOGITS_HELD

_CPU_ENTRIES = LOGITS_HELD
_CUDA_ENTRIES = 2**25
_FEWEST_ROWS = FEWEST_ROWS
"""Each chunk reads and writes the head's whole gradient: with fewer rows that costs more than the products."""
_CACHED_ENTRIES = LOGITS_CACHED
_HEAD_ROWS = 4096
"""On a CPU so many wide logits, and rows of the head's gradient in bfloat16, are made at a time: used in the cache."""


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    counted: Tensor | None = None,
    compiled: bool = False,
    device_type: str | None = None,
) -> Tensor:
    """Mean cross-entropy in nats.

    Args:
        hidden: ``[n, hidden_size]``; head: ``[vocab_size, hidden_size]``; targets: ``[n]`` token ids. A stack of
            models has one more axis before all of these.
        counted: ``[n]`` bool, the rows that the mean is over (0 when there are none); None for all.
        compiled: have what happens to a chunk's logits compiled.
        device_type: whose sizes of chunks are taken, when not the tensors' own.

    Returns:
        A scalar (a stack: one a model) in at least float32; softmax and sums are in that type for bfloat16 too.
    """
    device_type = device_type or hidden.device.type
    if hidden.dim() == 3 and device_type == "cpu":  # model by model: each one's logits stay in the cache
        parts = zip(hidden, head, targets, [None] * len(hidden) if counted is None else counted, strict=True)
        own = [_LinearCrossEntropy.apply(*part, compiled, device_type) for part in parts]
        return torch.stack(own)  # type: ignore[arg-type]
    return _LinearCrossEntropy.apply(hidden, head, targets, counted, compiled, device_type)


@torch.no_grad()
def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, nats, ``[n]``."""
    weight = head.to(hidden.dtype)
    device_type = hidden.device.type
    chunks = _chunks(len(hidden), len(head), device_type)
    parts = (part for rows in chunks for part in _cached(hidden[rows] @ weight.T, targets[rows], None, device_type))
    return torch.cat([_losses(logits, own)[0] for logits, own, _ in parts])


def chunk_entries(vocab_size: int, device_type: str) -> int:
    """Logits that are held at a time."""
    return _CUDA_ENTRIES if device_type == "cuda" else max(_FEWEST_ROWS * vocab_size, _CPU_ENTRIES)


def _chunks(rows: int, vocab_size: int, device_type: str) -> list[slice]:
    """Rows in parts of nearly one size: a compiled chunk is compiled again for another."""
    most = max(1, chunk_entries(vocab_size, device_type) // vocab_size)
    size = -(-rows // -(-rows // most)) if rows else 1
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _cached(
    logits: Tensor, targets: Tensor, counted: Tensor | None, device_type: str
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """All in parts of a few rows, on a CPU."""
    rows = max(1, _CACHED_ENTRIES // logits.shape[-1]) if device_type == "cpu" else logits.shape[-2]
    targets_of = targets.split(rows, -1)
    counted_of = [None] * len(targets_of) if counted is None else counted.split(rows, -1)
    return zip(logits.split(rows, -2), targets_of, counted_of, strict=True)


def _losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses ``[..., rows]`` and probabilities ``[..., rows, vocab_size]``, these in place of wide logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = logits.gather(-1, targets.unsqueeze(-1))
    largest, at = logits.max(-1, keepdim=True)
    probabilities = torch.softmax(logits, -1, out=logits)
    # log Z = largest logit - log of its probability: one exponential a logit instead of two.
    return (largest - probabilities.gather(-1, at).log() - picked).squeeze(-1), probabilities


def _eager_chunk(logits: Tensor, targets: Tensor, counted: Tensor | None, device_type: str) -> tuple[Tensor, Tensor]:
    """Sum of the losses that count, and its gradient at the logits, which takes their place."""
    total = logits.new_zeros(logits.shape[:-2], dtype=torch.promote_types(logits.dtype, torch.float32))
    for part, own, counts in _cached(logits, targets, counted, device_type):
        losses, gradient = _losses(part, own)
        index = own.unsqueeze(-1)
        gradient.scatter_(-1, index, gradient.gather(-1, index) - 1)
        if counts is not None:
            losses, gradient = losses * counts, gradient.mul_(counts.unsqueeze(-1))
        total += losses.sum(-1)
        if gradient.dtype != part.dtype:
            part.copy_(gradient)
    return total, logits


def _two_passes(logits: Tensor, picked: Tensor, targets: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a compiler makes two passes over the logits of."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normalizer = wide.logsumexp(-1, keepdim=True)
    hit = torch.arange(logits.shape[-1], device=logits.device) == targets.unsqueeze(-1)
    losses, gradient = normalizer - picked, (wide - normalizer).exp() - hit.to(wide.dtype)
    if counted is not None:
        losses, gradient = losses * counted.unsqueeze(-1), gradient * counted.unsqueeze(-1)
    return losses.sum((-2, -1)), logits.copy_(gradient)


def _fusible_chunk(
    logits: Tensor, targets: Tensor, counted: Tensor | None, device_type: str, passes: Callable[..., Any] = _two_passes
) -> tuple[Tensor, Tensor]:
    """``_eager_chunk`` for a compiler."""
    del device_type
    # Beforehand: the compiler of torch 2.11 reads them when their gradient has taken their place.
    picked = logits.gather(-1, targets.unsqueeze(-1))
    return passes(logits, picked, targets, counted)


@cache
def _compiled_chunk() -> Callable[..., tuple[Tensor, Tensor]]:
    return partial(_fusible_chunk, passes=torch.compile(_two_passes, dynamic=False, fullgraph=True))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        counted: Tensor | None,
        compiled: bool,
        device_type: str,
    ) -> Tensor:
        chunk = _compiled_chunk() if compiled else _eager_chunk
        weight = head.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head)
        total = hidden.new_zeros(hidden.shape[:-2], dtype=torch.promote_types(hidden.dtype, torch.float32))
        accumulate = grad_head.addmm_ if head.dim() == 2 else grad_head.baddbmm_
        chunks = _chunks(hidden.shape[-2], head.shape[-2], device_type)
        held = hidden.new_empty(*hidden.shape[:-2], chunks[0].stop if chunks else 0, head.shape[-2])
        for rows in chunks:
            part = hidden[..., rows, :]
            logits = torch.matmul(part, weight.mT, out=held[..., : rows.stop - rows.start, :])
            counts = None if counted is None else counted[..., rows]
            loss, grad = chunk(logits, targets[..., rows], counts, device_type)
            total += loss
            torch.matmul(grad, weight, out=grad_hidden[..., rows, :])
            if grad_head.dtype == grad.dtype:
                accumulate(grad.mT, part)
            else:
                step = _HEAD_ROWS if device_type == "cpu" else head.shape[-2]
                for own, columns in zip(grad_head.split(step, -2), grad.split(step, -1), strict=True):
                    own += columns.mT @ part
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.count = hidden.shape[-2] if counted is None else counted.sum(-1).clamp(min=1)
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        # In place: a second backward is refused by the saved tensors' version.
        grad_hidden, grad_head = ctx.saved_tensors
        scale = (grad / ctx.count)[..., None, None]
        return grad_hidden.mul_(scale), grad_head.mul_(scale), None, None, None, None
