"""Which source each training window comes from: exact shares over every prefix, by position alone."""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

_LONGEST_PERIOD = 10000
"""Windows after which the order repeats; shares that need a longer period are rounded to parts of this one."""


class Interleaving:
    """Sources in a fixed periodic order in which, after any number of windows, each source stands less than one
    window from its share (Tijdeman's chairman assignment, 1980).

    Args:
        weights: above 0, one a source; only their ratios matter.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        shares = _shares(weights)
        self.period = lcm(*(share.denominator for share in shares))
        self.shares = tuple(float(share) for share in shares)
        per_period = [int(share * self.period) for share in shares]
        self._sources = _assign(per_period)
        one_hot = self._sources[:, None] == np.arange(len(per_period))
        self._before = np.concatenate((np.zeros((1, len(per_period)), dtype=np.int64), one_hot.cumsum(0)))

    def counts(self, position: int) -> np.ndarray:
        """Windows of each source among the first ``position``, int64."""
        periods, rest = divmod(position, self.period)
        return periods * self._before[-1] + self._before[rest]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of the window at each position, and how many windows of that source came before it."""
        periods, rest = np.divmod(positions, self.period)
        sources = self._sources[rest]
        return sources, periods * self._before[-1, sources] + self._before[rest, sources]


def _shares(weights: Sequence[float]) -> list[Fraction]:
    """Each weight's share of the sum: as it is where the common period stays short, else to a whole part of it."""
    total = sum(weights)
    exact = [Fraction(weight / total).limit_denominator(_LONGEST_PERIOD) for weight in weights]
    if sum(exact) == 1 and lcm(*(share.denominator for share in exact)) <= _LONGEST_PERIOD:
        return exact
    wanted = [weight / total * _LONGEST_PERIOD for weight in weights]
    parts = [max(1, int(part)) for part in wanted]
    short = sorted(range(len(parts)), key=lambda source: parts[source] - wanted[source])
    for source in short[: max(0, _LONGEST_PERIOD - sum(parts))]:
        parts[source] += 1
    parts[int(np.argmax(parts))] -= sum(parts) - _LONGEST_PERIOD
    return [Fraction(part, _LONGEST_PERIOD) for part in parts]


def _assign(per_period: list[int]) -> np.ndarray:
    """One period: at each place the source that is due soonest among those that are due."""
    sources, period = len(per_period), sum(per_period)
    if sources == 1:
        return np.zeros(period, dtype=np.int64)
    # In whole numbers: everything times period * (2 * sources - 2).
    scale = 2 * sources - 2
    out = np.empty(period, dtype=np.int64)
    given = [0] * sources
    for place in range(period):
        best, best_due = -1, 0.0
        for source, share in enumerate(per_period):
            # Behind by before this place, in windows times period.
            behind = share * place - given[source] * period
            if (behind + share) * scale < period:
                continue  # would run ahead
            due = (period * (scale - 1) / scale - behind) / share
            if best < 0 or due < best_due:
                best, best_due = source, due
        out[place] = best
        given[best] += 1
    return out
