"""Muon (Jordan et al. 2024; arXiv 2502.16982): matrices move by the orthogonal part of their momentum.

A step is few operators, however many matrices there are: those of one size go together, over layers and experts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_aten = torch.ops.aten
# Quintic Newton-Schulz that lifts every singular value of a matrix of norm 1 to about 1 in five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_TOGETHER = {"cuda": 2**25, "cpu": 2**20}
"""Numbers in the matrices that go together: on a GPU so many that launching is no matter and a few hundred MB are; on a
CPU few enough to stay near the cache. A parameter that has more goes alone."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrix with singular values near 1 of every ``[rows, columns]`` in ``[..., rows, columns]``.

    All matrices are done in batched products of type ``dtype``.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).reshape(-1, *x.shape[-2:])
    for _ in range(_STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x = torch.baddbmm(x, polynomial, x, beta=_A)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


@dataclass
class _Matrices:
    """Matrices of one size in a parameter: views ``[count, rows, columns]`` of it, its gradient and its momentum."""

    group: dict[str, Any]
    parameter: Tensor
    gradient: Tensor
    momentum: Tensor


class Muon(torch.optim.Optimizer):
    """Groups with ``rows`` go by Muon, those without by AdamW.

    ``rows`` are the heights of the matrices that one parameter holds above each other (queries, keys and values; gate
    and up): each is made orthogonal on its own. A step has spectral norm ``lr * sqrt(rows / columns)``
    (arXiv 2310.17813): the same rate does for every width.

    Args:
        groups: each with ``params``, ``lr``, ``weight_decay`` and ``rows`` (a tuple, or None).
        momentum: of Muon, with Nesterov's look ahead.
        betas, eps: of AdamW.
        dtype: of the products that make matrices orthogonal.
        device_type: whose number of matrices goes together, when not the parameters' own.

    Attributes:
        share: makes matrices ``[count, rows, columns]`` that are the same on several ranks orthogonal by common work,
            in place of ``orthogonalize`` on each; groups that have a true ``own`` are of this rank alone.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        dtype: torch.dtype,
        device_type: str | None = None,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": 0.0})
        self._dtype, self._device_type = dtype, device_type
        self.share: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        alike: dict[Any, list[_Matrices]] = defaultdict(list)
        for group in self.param_groups:
            members = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rows"] is None:
                self._adamw(group, members)
                continue
            for parameter in members:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                if hasattr(parameter, "device_mesh"):  # a DTensor
                    self._sharded(group, parameter)
                    continue
                views = (_by_size(part, group["rows"]) for part in (parameter, parameter.grad, state["momentum"]))
                for parts in zip(*views, strict=True):
                    alike[group.get("own", False), parts[0].shape[1:]].append(_Matrices(group, *parts))
        for (own, _), matrices in alike.items():
            for together in self._portions(matrices):
                self._muon(together, None if own else self.share)

    def _portions(self, matrices: list[_Matrices]) -> Iterator[list[_Matrices]]:
        most = _TOGETHER[self._device_type or matrices[0].parameter.device.type]
        together: list[_Matrices] = []
        for each in matrices:
            if together and sum(other.parameter.numel() for other in (*together, each)) > most:
                yield together
                together = []
            together.append(each)
        yield together

    def _muon(self, matrices: list[_Matrices], share: Callable[[Tensor], Tensor] | None) -> None:
        """One step of matrices of one size."""
        groups = [each.group for each in matrices]
        parameters = [each.parameter for each in matrices]
        gradients = [each.gradient for each in matrices]
        momenta = [each.momentum for each in matrices]
        keep = groups[0]["momentum"]
        _aten._foreach_lerp_.Scalar(momenta, gradients, 1 - keep)
        ahead = torch.cat(_aten._foreach_lerp.Scalar(gradients, momenta, keep))
        directions = share(ahead) if share is not None else orthogonalize(ahead, self._dtype)
        scale = (ahead.shape[1] / ahead.shape[2]) ** 0.5
        steps = list(directions.split([len(parameter) for parameter in parameters]))
        _aten._foreach_mul_.ScalarList(steps, [-group["lr"] * scale for group in groups])
        _aten._foreach_mul_.ScalarList(parameters, [1 - group["lr"] * group["weight_decay"] for group in groups])
        _aten._foreach_add_.List(parameters, steps)

    def _sharded(self, group: dict[str, Any], parameter: Tensor) -> None:
        """One parameter of which each rank has a part: parts have no singular values of their own."""
        from torch.distributed.tensor import distribute_tensor  # half a second's import, for those who shard

        gradient, momentum = parameter.grad, self.state[parameter]["momentum"]
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        shard = cast(Any, gradient.lerp(momentum, group["momentum"]))
        whole = shard.full_tensor()
        for part in _by_size(whole, group["rows"]):
            shared = self.share is not None and len(part) > 1
            made = self.share(part) if shared else orthogonalize(part, self._dtype)  # type: ignore[misc]
            part.copy_(made * (part.shape[1] / part.shape[2]) ** 0.5)
        # All ranks have the same: each takes its part, and nothing travels.
        step = distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=None)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(step, alpha=group["lr"])

    def _adamw(self, group: dict[str, Any], members: list[torch.nn.Parameter]) -> None:
        for parameter in members:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in members]
        beta1, beta2 = group["betas"]
        adamw(
            list(members),
            [parameter.grad for parameter in members if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _by_size(parameter: Tensor, rows: tuple[int, ...]) -> list[Tensor]:
    """The matrices in a parameter as views ``[count, rows, columns]``, one for each run of equal heights."""
    columns = parameter.shape[-1]
    if len(set(rows)) == 1:
        return [parameter.view(-1, rows[0], columns)]
    views, start = [], 0
    for height, run in groupby(rows):
        count = len(list(run))
        views.append(parameter[start : start + count * height].view(count, height, columns))
        start += count * height
    return views
