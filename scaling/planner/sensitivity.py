"""What it costs to be off: the plan with one number changed, for the same loss."""

from collections.abc import Iterator

import numpy as np

from scaling.plan import Neighbour
from scaling.planner.constraints import KEPT
from scaling.planner.search import Search, finite

_ROUTING = ("num_experts", "experts_per_token", "granularity", "num_shared_experts")
_HELD = {
    "hidden_size": ("num_experts", "experts_per_token", "num_shared_experts", "vocab_size"),
    "num_layers": ("hidden_size", "num_attention_heads", "num_dense_layers", *_ROUTING, "vocab_size"),
    "num_attention_heads": ("hidden_size", "num_layers", "num_dense_layers", *_ROUTING, "vocab_size"),
    "num_dense_layers": ("hidden_size", "num_layers", "num_attention_heads", *_ROUTING, "vocab_size"),
    **{name: (*(other for other in _ROUTING if other != name), "vocab_size") for name in _ROUTING},
    "vocab_size": _ROUTING,
}
"""What stays as it is when a number changes; the rest is chosen anew."""
_SAME_GRANULARITY = np.log(1.08)
"""Expert widths are rounded, so granularity is the same when it is this near, in logarithms."""
_FEW = 12
"""Routing choices of a sweep up to which each is a neighbour as a whole."""


def sensitivity(found: Search, level: float, *, each_side: int = 2) -> Iterator[Neighbour]:
    """The nearest values tried on each side of every number of the plan, with what they cost.

    Args:
        level: of the intervals over the law's draws.
        each_side: values on each side.
    """
    joint = len(found.candidates.space.experts)
    for name, others in _HELD.items():
        if joint and name in _ROUTING:
            continue
        freely = name in ("num_layers", "num_attention_heads", "num_dense_layers")
        for rows, words in ((_rows(found, others, freely), ""), (_rows(found, ("vocab_size",), False), ", rest anew")):
            yielded = list(_of_number(found, name, rows, words, level, each_side))
            if yielded or name not in ("hidden_size", "granularity", "num_experts"):
                yield from yielded
                break
    if joint:
        yield from _routings(found, level)


def _of_number(
    found: Search, name: str, rows: np.ndarray, words: str, level: float, each_side: int
) -> Iterator[Neighbour]:
    own = found.column(name)[found.best]
    values, at = found.column(name)[rows], own
    if name == "granularity":
        values, at = _as_asked(found, values, own), _as_asked(found, np.array([own]), own)[0]
    tried = np.unique(values)
    for value in [*tried[tried < at][-each_side:], *tried[tried > at][:each_side]]:
        row = _lowest(found, rows[values == value])
        reached = float(found.column(name)[row])
        yield _neighbour(found, row, name, f"{name} {_short(own)} -> {_short(reached)}{words}", reached, level)


def _routings(found: Search, level: float) -> Iterator[Neighbour]:
    """The other routing choices of a sweep, which go together."""
    chosen = found.shape
    same_vocabulary = found.allowed & (found.column("vocab_size") == chosen.vocab_size)
    for each in found.candidates.space.experts[:_FEW]:
        keys = ("num_experts", "experts_per_token", "num_shared_experts")
        near = np.abs(np.log(found.column("granularity") / each.granularity)) < 3 * _SAME_GRANULARITY
        matches = (
            same_vocabulary & near & np.logical_and.reduce([found.column(key) == getattr(each, key) for key in keys])
        )
        if matches.any() and not matches[found.best]:
            change = f"{each.num_experts} experts, top {each.experts_per_token}, G {each.granularity:g}"
            row = _lowest(found, np.flatnonzero(matches))
            yield _neighbour(found, row, "experts", change, float(each.num_experts), level)


def _rows(found: Search, others: tuple[str, ...], freely: bool) -> np.ndarray:
    """Rows that keep every limit and share the ``others`` with the plan; ``freely``, unusual ones too."""
    rows = found.candidates.verdict == KEPT if freely else found.allowed.copy()
    for name in others:
        column = found.column(name)
        if name == "granularity":
            rows &= np.abs(np.log(column / column[found.best])) < _SAME_GRANULARITY
        else:
            rows &= column == column[found.best]
    return np.flatnonzero(rows)


def _as_asked(found: Search, values: np.ndarray, own: float) -> np.ndarray:
    """The granularity that was asked for behind each; expert widths are rounded, so it comes out differently at every
    hidden size. Where widths were asked for, those that differ by more than rounding stand for the others."""
    asked = np.array(sorted(found.candidates.space.granularity))
    if not len(asked):
        kept = [float(own)]
        for value in np.unique(values):
            if all(abs(np.log(value / other)) > _SAME_GRANULARITY for other in kept):
                kept.append(float(value))
        asked = np.sort(kept)
    return asked[np.abs(np.log(values[:, None] / asked)).argmin(axis=1)]


def _lowest(found: Search, rows: np.ndarray) -> int:
    return int(rows[np.argmin(found.loss[rows])])


def _short(value: float) -> str:
    return f"{round(float(value), 2):g}"


def _neighbour(found: Search, row: int, name: str, change: str, value: float, level: float) -> Neighbour:
    """The regret of a row, with its interval over the draws."""
    low, high = found.regret_interval(found.table.take([row]), float(found.tokens[row]), level)
    regret = finite(found.regret(row)[0])
    return Neighbour(change=change, choice=name, value=value, regret=regret, low=low, high=high)
