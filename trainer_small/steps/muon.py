"""Muon (Jordan et al. 2024; arXiv 2502.16982): matrices move by the orthogonal part of their momentum."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# Quintic Newton-Schulz that lifts every singular value of a matrix of norm 1 to about 1 in five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrix with singular values near 1 of every ``[rows, columns]`` in ``[..., rows, columns]``.

    All matrices of a stack of experts are done in batched products of type ``dtype``.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


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
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            members = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rows"] is None:
                self._adamw(group, members)
            else:
                for parameter in members:
                    self._muon(group, parameter)

    def _muon(self, group: dict[str, Any], parameter: Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if hasattr(ahead, "device_mesh"):  # a DTensor: a shard has no singular values of its own
            from torch.distributed.tensor import distribute_tensor  # half a second's import, for those who shard

            shard = cast(Any, ahead)
            step = self._direction(shard.full_tensor(), group["rows"])
            parameter.sub_(distribute_tensor(step, shard.device_mesh, shard.placements), alpha=group["lr"])
        else:
            parameter.sub_(self._direction(ahead, group["rows"]), alpha=group["lr"])

    def _direction(self, ahead: Tensor, rows: tuple[int, ...]) -> Tensor:
        parts = [
            orthogonalize(part, self._dtype) * (part.shape[-2] / part.shape[-1]) ** 0.5
            for part in ahead.split(rows, -2)
        ]
        return torch.cat(parts, -2)

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
