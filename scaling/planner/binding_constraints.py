"""Which limit holds a plan back, and what loosening it by a stated amount would buy."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from scaling.plan import BindingConstraint
from scaling.planner.constraints import KEPT
from scaling.planner.loss_model import Text
from scaling.planner.search import Search

_WORTH = 1e-3
"""Compute saved, as a fraction, from which a limit is said to bind."""


def binding_constraints(found: Search, level: float) -> Iterator[BindingConstraint]:
    """Every limit that binds, the costliest first.

    The gain is the compute that the better plan would save for the loss of the best plan within the limits.
    """
    yield from sorted(_unordered(found, level), key=lambda each: -each.gain)


def _unordered(found: Search, level: float) -> Iterator[BindingConstraint]:
    verdict = found.candidates.verdict
    for index, limit in enumerate(found.candidates.constraints):
        rows = np.flatnonzero(found.usual & ((verdict == KEPT) | (verdict == index)))
        row = int(rows[np.argmin(found.loss[rows])])
        yield from _gain(found, limit.name, limit.limit, limit.relaxed, row, found.tokens[row], found.text, level)
    spending = found.candidates.spending
    if found.text.unique_tokens:
        more = replace(found.text, unique_tokens=1.5 * found.text.unique_tokens)
        loss = np.where(found.allowed, found.loss_model.loss(found.table, found.tokens, more), np.inf)
        row = int(np.argmin(loss))
        unique = found.text.unique_tokens
        yield from _gain(found, "unique_tokens", unique, 1.5 * unique, row, found.tokens[row], more, level)
    if spending.inference_tokens:
        half = replace(spending, inference_tokens=spending.inference_tokens / 2)
        tokens = np.asarray(half.tokens(found.table))
        loss = np.where(found.allowed, found.loss_model.loss(found.table, tokens, found.text), np.inf)
        row, served = int(np.argmin(loss)), spending.inference_tokens
        yield from _gain(found, "inference_tokens", served, served / 2, row, tokens[row], found.text, level)


def _gain(
    found: Search, name: str, limit: float, relaxed: float, row: int, tokens: Any, text: Text, level: float
) -> Iterator[BindingConstraint]:
    of, best = found.table.take([row]), found.lowest
    gain = -float(found.regret_of(of, float(tokens), to=best, text=text)[0])
    if gain < _WORTH:
        return
    low, high = found.regret_interval(of, float(tokens), level, to=best, text=text)
    yield BindingConstraint(
        constraint=name,
        limit=limit,
        relaxed_to=relaxed,
        gain=gain,
        low=None if high is None else -high,
        high=None if low is None else -low,
        shape=describe(of, 0),
    )


def describe(of: Any, row: int) -> str:
    """A shape in one short line: width x layers, experts, experts a token, granularity."""
    size = {name: int(np.asarray(getattr(of, name)).reshape(-1)[row]) for name in ("hidden_size", "num_layers")}
    experts = [int(np.asarray(getattr(of, name)).reshape(-1)[row]) for name in ("num_experts", "experts_per_token")]
    text = f"{size['hidden_size']}x{size['num_layers']}"
    if not experts[0]:
        return f"{text} dense"
    granularity = float(np.asarray(of.granularity).reshape(-1)[row])
    return f"{text} E{experts[0]} top{experts[1]} G{granularity:.3g}"
