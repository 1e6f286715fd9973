"""Gradients of several ranks made one, while the backward pass makes the next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_aten = torch.ops.aten
_BUCKET = 2**24
"""Numbers in a flat piece of gradients, about: small messages cost time each, and a piece can go only when its last
gradient is there."""


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    coming: int = 0
    """Gradients that are not there yet."""
    flat: Tensor | None = None
    work: Any = None


@dataclass
class GradientAverage:
    """Sums gradients over a group and scales them, in buckets that go while the backward pass makes the next.

    All ranks send the buckets in one order: from the last parameters, whose gradients come first.
    """

    parameters: list[nn.Parameter]
    group: dist.ProcessGroup | None
    """None where there is nothing to add."""
    scale: float
    buckets: list[_Bucket] = field(default_factory=list)
    sent: int = 0
    on: bool = False

    def __post_init__(self) -> None:
        for parameters in _buckets(self.parameters[::-1]):
            bucket = _Bucket(parameters)
            self.buckets.append(bucket)
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._noted(bucket))

    def begin(self) -> None:
        self.on, self.sent = True, 0
        for bucket in self.buckets:
            bucket.coming = len(bucket.parameters)

    def finish(self) -> None:
        if not self.on:
            self.begin()
        self._send(len(self.buckets))
        for bucket in self.buckets:
            gradients = [part.grad for part in bucket.parameters if part.grad is not None]
            if bucket.flat is not None:
                bucket.work.wait()
                sums = bucket.flat.split([gradient.numel() for gradient in gradients])
                shaped = [part.view_as(gradient) for part, gradient in zip(sums, gradients, strict=True)]
                _aten._foreach_copy_.default(gradients, shaped)
            if gradients:
                _aten._foreach_mul_.Scalar(gradients, self.scale)
            bucket.flat = bucket.work = None
        self.on = False

    def _noted(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            if self.on:
                bucket.coming -= 1
                ready = next((at for at, each in enumerate(self.buckets) if each.coming > 0), len(self.buckets))
                self._send(ready)

        return hook

    def _send(self, end: int) -> None:
        for bucket in self.buckets[self.sent : end]:
            gradients = [part.grad.flatten() for part in bucket.parameters if part.grad is not None]
            if self.group is not None and gradients:
                bucket.flat = torch.cat(gradients)
                bucket.work = dist.all_reduce(bucket.flat, group=self.group, async_op=True)
        self.sent = max(self.sent, end)


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(part.numel() for part in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
