"""The limits of a plan as columns: which shapes keep them, which one alone stands in the way, and what contradicts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fits.errors import UserError
from fits.laws.expression import Node, evaluate, names, parse
from scaling.cluster.serving import decode_seconds, inference_flops
from scaling.planner.loss_model import LossModel
from scaling.planner.search_space import SearchSpace
from scaling.planner.shapes import ShapeTable

KEPT = -1
"""A shape that keeps every limit."""
_BROKEN = -2
_CHOICES = {
    "num_experts",
    "experts_per_token",
    "num_shared_experts",
    "expert_ffn_size",
    "activation_ratio",
    "granularity",
    "vocab_size",
}
"""Columns of routing and vocabulary: choices that are not a matter of size."""


@dataclass(frozen=True)
class Constraint:
    """A number that a shape must not exceed (or, ``at_least``, must reach), under the name that the user gave it."""

    name: str
    limit: float
    relaxed: float
    """The limit loosened by a stated amount: shapes up to it show what the limit costs."""
    of: Callable[[ShapeTable, np.ndarray], Any]
    """The column that is limited, from the shapes and their tokens."""
    unit: str = ""
    at_least: bool = False

    def keeps(self, values: Any, limit: float) -> np.ndarray:
        return np.asarray(values >= limit if self.at_least else values <= limit)

    def __str__(self) -> str:
        return f"{self.name} {self.limit:.4g}{self.unit}"


def constraints_of(space: SearchSpace, flops: float, gpu: str, gpus: int | None = None) -> list[Constraint]:
    """The limits of a space at a budget, and of the memory of ``gpus`` GPUs when the cluster is known."""
    low, high = space.tokens_per_parameter

    def per_parameter(table: ShapeTable, tokens: np.ndarray) -> Any:
        return np.where(tokens > 0, tokens / table.params_active, low)  # no tokens is another limit's matter

    constraints = [
        Constraint("tokens_per_parameter from", low, low / 2, per_parameter, "", True),
        Constraint("tokens_per_parameter to", high, high * 2, per_parameter),
    ]
    if served := space.inference_tokens:
        share = "share of the budget for inference_tokens"
        constraints.append(Constraint(share, 1.0, 1.0, lambda table, _: inference_flops(table, served) / flops))
    for name in ("params_total", "params_active"):
        most = getattr(space, f"max_{name}")
        if most:
            constraints.append(
                Constraint(f"max_{name}", most, 1.5 * most, lambda table, _, name=name: getattr(table, name))
            )
    if space.max_decode_seconds:
        most = space.max_decode_seconds
        unit = f" {gpu}-seconds a million tokens"
        constraints.append(
            Constraint("max_decode_seconds", most, 1.5 * most, lambda table, _: decode_seconds(table, gpu), unit)
        )
    if gpus:
        constraints.append(_memory(gpus, gpu))
    return constraints


def ranges_of_law(loss_model: LossModel) -> list[Constraint]:
    """What a fitted law's runs tried of routing and vocabulary, as limits: it says nothing of choices beyond them."""
    constraints = []
    for name, text in loss_model.bind.items():
        expression = parse(text)
        seen = set(names(expression))
        if not seen or not seen <= _CHOICES or name not in loss_model.ranges:
            continue

        def column(table: ShapeTable, _: np.ndarray, expression: Node = expression, seen: set[str] = seen) -> Any:
            return evaluate(expression, {each: getattr(table, each) for each in seen})

        low, high = loss_model.ranges[name]
        near = 1.02  # expert widths are rounded
        constraints.append(Constraint(f"{text} as the law's runs had it, from", low / near, low / 2, column, "", True))
        constraints.append(Constraint(f"{text} as the law's runs had it, to", high * near, high * 2, column))
    return constraints


def _memory(gpus: int, gpu: str) -> Constraint:
    """Bytes of weights, gradients and optimizer that every layout needs at least; a real layout is sought later."""
    from scaling.cluster.hardware import gpu as find_gpu
    from scaling.cluster.layout.bound import least_bytes_per_gpu, usable_bytes

    node = find_gpu(gpu).gpus_per_node

    def gib(table: ShapeTable, _: np.ndarray) -> Any:
        routed = table.params_by_role["routed_experts"]
        least = least_bytes_per_gpu(
            table.params_total, gpus, params_routed=routed, num_layers=table.num_layers, gpus_per_node=node
        )
        return least / 2**30

    usable = usable_bytes(gpu) / 2**30
    return Constraint(f"memory of {gpus} {gpu},", usable, 1.5 * usable, gib, " GiB a GPU")


class Feasibility:
    """Sorts blocks of shapes by the limits they keep, and remembers what the others lacked."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.constraints = constraints
        self._seen: dict[int, int] = {}
        self._nearest: dict[tuple[int, int], float] = {}

    def check(self, table: ShapeTable, tokens: np.ndarray) -> np.ndarray:
        """For each shape: KEPT, the index of the one limit that a stated loosening would satisfy, or -2."""
        values = [np.asarray(limit.of(table, tokens), dtype=float) for limit in self.constraints]
        broken = np.zeros(len(table), dtype=np.int64)
        for bit, (limit, value) in enumerate(zip(self.constraints, values, strict=True)):
            broken |= ~limit.keeps(value, limit.limit) * (1 << bit)
        self._remember(broken, values)
        verdict = np.where(broken == 0, KEPT, _BROKEN)
        for bit, (limit, value) in enumerate(zip(self.constraints, values, strict=True)):
            verdict[(broken == 1 << bit) & limit.keeps(value, limit.relaxed)] = bit
        return verdict

    def _remember(self, broken: np.ndarray, values: list[np.ndarray]) -> None:
        for mask, count in zip(*np.unique(broken, return_counts=True), strict=True):
            self._seen[int(mask)] = self._seen.get(int(mask), 0) + int(count)
            rows = broken == mask
            for bit, (limit, value) in enumerate(zip(self.constraints, values, strict=True)):
                if mask >> bit & 1:
                    nearest = float(value[rows].max() if limit.at_least else value[rows].min())
                    key = (int(mask), bit)
                    best = max if limit.at_least else min
                    self._nearest[key] = best(nearest, self._nearest.get(key, nearest))

    def contradiction(self, train_flops: float) -> UserError:
        """The fewest limits to give up for any shape to be left, in one sentence."""
        if not self._seen:
            return UserError(
                f"the search space holds no shape that a budget of {train_flops:.3g} FLOPs can train; give smaller "
                "hidden_size or num_layers, or a larger budget."
            )
        fewest = min(mask.bit_count() for mask in self._seen)
        masks = [mask for mask in self._seen if mask.bit_count() == fewest]
        if fewest > 1:
            masks = [max(masks, key=lambda mask: self._seen[mask])]
        parts = [
            f"{limit} (the nearest shape has {self._nearest[mask, bit]:.4g})"
            for mask in masks
            for bit, limit in enumerate(self.constraints)
            if mask >> bit & 1
        ]
        listed = " and ".join(parts)
        says = f"no shape fits a budget of {train_flops:.3g} FLOPs under the constraints"
        if len(parts) == 1:
            return UserError(f"{says}: {listed} leaves none; loosen it or change the budget.")
        if fewest == 1:
            return UserError(f"{says}: {listed} contradict each other; loosen one of them.")
        return UserError(f"{says}: {listed} each leave none; loosen all of them or change the budget.")


def edges(space: SearchSpace, table: ShapeTable, row: int) -> Iterator[str]:
    """The choices that ended at the first or last value tried."""
    for name in ("hidden_size", "num_experts", "experts_per_token", "granularity", "vocab_size"):
        tried = np.unique(np.round(getattr(table, name), 3))
        value = np.round(getattr(table, name)[row], 3)
        of_experts = name in ("experts_per_token", "granularity") and not table.num_experts[row]
        if len(tried) > 1 and value in (tried[0], tried[-1]) and not of_experts:
            yield f"{name} {value:g} is the {'smallest' if value == tried[0] else 'largest'} that was tried"
