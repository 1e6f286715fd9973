"""The Pareto front: plans that no other beats in loss, training compute, total parameters and decode cost at once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scaling.cluster.serving import decode_seconds
from scaling.plan import ParetoPoint
from scaling.planner.binding_constraints import describe
from scaling.planner.search import Search

_SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of the budget at which plans are made: training compute is one of the four costs."""
_STEP = np.log(1.1)
"""Sizes and decode costs within 10 % are the same, so that the front has few points."""


def pareto_front(found: Search, gpu: str, *, each_share: int = 5) -> tuple[ParetoPoint, ...]:
    """Points of the front, at most ``each_share`` for each share of the budget, spread over its losses."""
    points = list(_points(found, gpu))
    costs = np.array([[p.loss, p.train_flops, p.params_total, p.decode_seconds] for p in points])
    kept = [point for point, cost in zip(points, costs, strict=True) if not _beaten(cost, costs)]
    chosen: list[ParetoPoint] = []
    for share in _SHARES:
        spent = share * found.candidates.spending.flops
        group = sorted((p for p in kept if np.isclose(p.train_flops, spent, rtol=0.01)), key=lambda p: p.loss)
        if group:
            index = np.unique(np.round(np.linspace(0, len(group) - 1, min(each_share, len(group)))).astype(int))
            chosen += [group[each] for each in index]
    return tuple(chosen)


def _points(found: Search, gpu: str) -> Iterator[ParetoPoint]:
    """The lowest loss of each cell of size and decode cost, for each share of the budget."""
    rows = np.flatnonzero(found.allowed)
    table = found.table.take(rows)
    decode = np.asarray(decode_seconds(table, gpu))
    cell = np.round(np.log(table.params_total) / _STEP).astype(np.int64) * 100_000
    cell += np.round(np.log(decode) / _STEP).astype(np.int64)
    for share in _SHARES:
        spending = replace(found.candidates.spending, flops=share * found.candidates.spending.flops)
        tokens = np.asarray(spending.tokens(table))
        loss = np.where(tokens > 0, found.loss_model.loss(table, np.maximum(tokens, 1.0), found.text), np.inf)
        order = np.argsort(loss, kind="stable")
        _, first = np.unique(cell[order], return_index=True)
        for row in order[first]:
            if np.isfinite(loss[row]):
                yield ParetoPoint(
                    shape=describe(table, row),
                    loss=float(loss[row]),
                    train_flops=spending.flops,
                    params_total=int(table.params_total[row]),
                    params_active=int(table.params_active[row]),
                    tokens=int(tokens[row]),
                    decode_seconds=float(decode[row]),
                )


def _beaten(cost: np.ndarray, costs: np.ndarray) -> bool:
    """Whether another point is no worse in any cost and better in one."""
    return bool(((costs <= cost).all(axis=1) & (costs < cost).any(axis=1)).any())
