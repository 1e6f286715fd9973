"""Gradients averaged over ranks, while the backward pass still makes those of the layers before."""

from collections.abc import Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

_aten = torch.ops.aten
_BUCKET = 2**24
"""Numbers in a flat piece of gradients, about: small messages cost time each, and a piece can go only when its last
gradient is there."""


class GradientAverage:
    """Makes the gradients of ``parameters`` their sum over ``group`` times ``scale``.

    Buckets hold parameters from the last to the first, as a backward pass comes to them, and leave in that order on all
    ranks.

    Args:
        group: None where no other rank has these parameters: they are only scaled.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup | None, scale: float) -> None:
        self._parameters, self._group, self._scale = list(parameters), group, scale
        self._leaving = False
        """Whether gradients leave as they are made: they are complete then."""
        self._buckets = [] if group is None else [_Bucket(part) for part in _buckets(self._parameters)]
        self._sent = 0
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def begin(self) -> None:
        """Before the backward pass that completes the gradients."""
        self._leaving = True

    def _arrived(self, bucket: "_Bucket", parameter: Tensor) -> None:
        if self._leaving:
            bucket.missing -= 1
            while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
                self._send()

    def _send(self) -> None:
        self._buckets[self._sent].send(self._group)
        self._sent += 1

    def finish(self) -> None:
        """Send what has not left yet, and wait for all."""
        while self._sent < len(self._buckets):
            self._send()
        for bucket in self._buckets:
            bucket.receive()
        self._sent, self._leaving = 0, False
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if gradients:
            _aten._foreach_mul_.Scalar(gradients, self._scale)


class _Bucket:
    """Some parameters; from ``send`` on their gradients are views of one flat tensor."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self._work: dist.Work | None = None

    def send(self, group: dist.ProcessGroup | None) -> None:
        members = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not members:
            return
        flat = torch.cat([parameter.grad.flatten() for parameter in members if parameter.grad is not None])
        for parameter, piece in zip(members, flat.split([part.numel() for part in members]), strict=True):
            parameter.grad = piece.view_as(parameter)
        self._work = dist.all_reduce(flat, group=group, async_op=True)

    def receive(self) -> None:
        if self._work is not None:
            self._work.wait()
        self.missing, self._work = len(self.parameters), None


def _buckets(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        bucket.append(parameter)
        if sum(part.numel() for part in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
