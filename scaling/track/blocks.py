"""Rows of a log in blocks: their means, and how much these vary, so that many rows do not count as many facts."""

import math
from dataclasses import dataclass

import numpy as np

from scaling.plan import TrainingPlan
from scaling.stacks.run import run_of
from scaling.track.promise import Promise

GAP_DRIFT = 0.003
"""Standard deviation of the gap's change over a factor e of tokens, as a fraction of the loss."""
_BLOCKS = 24
_SPIKE = 10.0, 0.01
"""A row is a spike from so many robust standard deviations, and such a fraction of the loss, above its neighbours;
wide, because leaving out the upper tail of plain noise would flatter the run."""


@dataclass(frozen=True)
class Blocks:
    """Means of neighbouring rows, [n] each."""

    tokens: np.ndarray
    loss: np.ndarray
    expected: np.ndarray
    """The curve with the mean gap."""
    curve: np.ndarray
    height: np.ndarray
    """Of the learning rate: 1 at the peak, 0 when decayed."""
    noise: np.ndarray
    """Variance of the mean."""
    facts: float

    @property
    def residual(self) -> np.ndarray:
        return self.loss - self.expected

    def covariance(self, curve: Promise, gap: tuple[float, float]) -> np.ndarray:
        modes = curve.mode(self.tokens)
        drift = GAP_DRIFT * self.curve * np.log(self.tokens / self.tokens[-1]) * self.height
        return (
            modes.T @ modes
            + curve.run_sd**2
            + np.outer(self.height, self.height) * gap[1] ** 2
            + np.outer(drift, drift)
            + np.diag(self.noise)
        )

    def rows(self, covariance: np.ndarray) -> tuple[tuple[float, float, float, float, float], ...]:
        sd = np.sqrt(np.diag(covariance))
        columns = (self.tokens, self.loss, self.expected, sd, (self.height == 0).astype(float))
        return tuple(tuple(float(value) for value in row) for row in zip(*columns, strict=True))  # type: ignore[misc]


def blocks_of(
    plan: TrainingPlan,
    curve: Promise,
    tokens: np.ndarray,
    loss: np.ndarray,
    decayed: np.ndarray,
    gap: tuple[float, float],
) -> Blocks:
    """Rows of the trunk in blocks of even width in ln tokens; each decayed row alone."""
    run = run_of(plan)
    rates = np.array([run.learning_rate_after(count / plan.batch_tokens) for count in tokens])
    height = (rates - run.min_learning_rate) / max(run.learning_rate - run.min_learning_rate, 1e-300)
    height = np.where(decayed, 0.0, np.clip(height, 0, 1))
    predicted = curve.value(tokens)
    residual = loss - predicted - gap[0] * height
    trunk = ~decayed
    variance, memory = noise_of(residual[trunk])
    edges = np.linspace(np.log(curve.tokens[0]), np.log(curve.tokens[-1] * 1.021), _BLOCKS + 1)
    number = np.where(trunk, np.digitize(np.log(tokens), edges), _BLOCKS + 2 + np.arange(len(tokens)))
    found = []
    for block in np.unique(number):
        mine = number == block
        count = int(mine.sum())
        spread = variance * memory / count if trunk[mine][0] else variance / max(memory, 1.0)
        place = math.exp(float(np.log(tokens[mine]).mean()))
        # The curve at the block's place, and the mean of what the rows differ from their own expectations.
        at, tall = float(predicted[mine].mean()), float(height[mine].mean())
        found.append((place, float(loss[mine].mean()), at + gap[0] * tall, at, tall, spread))
    columns = np.array(sorted(found)).T
    facts = float(trunk.sum() / memory + decayed.sum())
    return Blocks(*columns, facts=facts)


def noise_of(residual: np.ndarray) -> tuple[float, float]:
    """Variance of a row about a smooth curve, and how many rows one fact takes (the integrated autocorrelation time).

    The time is that of an autoregression of first order, or, where it is longer, that of means of batches.
    """
    count = len(residual)
    if count < 4:
        return (0.001 * 3.0) ** 2, 1.0
    place = np.linspace(-1, 1, count)
    smooth = np.polynomial.polynomial.Polynomial.fit(place, residual, min(3, count // 4))(place)
    rest = residual - smooth
    variance = float((rest**2).sum() / max(count - 1 - min(3, count // 4), 1))
    if variance <= 0:
        return 1e-12, 1.0
    first = float(np.clip((rest[1:] * rest[:-1]).mean() / (rest**2).mean() + 1 / count, 0, 0.99))
    memory = (1 + first) / (1 - first)
    size = int(count**0.5)
    batches = rest[: count // size * size].reshape(-1, size).mean(axis=1)
    if len(batches) >= 8:
        memory = max(memory, size * float(batches.var(ddof=3)) / variance)
    return variance, float(min(max(memory, 1.0), count / 2))


def spikes_of(residual: np.ndarray, loss: np.ndarray, decayed: np.ndarray) -> np.ndarray:
    """Rows whose residual is far above the median of their neighbours', by the median deviation."""
    import pandas as pd

    found = np.zeros(len(loss), bool)
    trunk = np.flatnonzero(~decayed)
    if len(trunk) < 12:
        return found
    rest = pd.Series(residual[trunk])
    rest = rest - rest.rolling(11, center=True, min_periods=4).median()
    scale = 1.4826 * float(rest.abs().median())
    found[trunk] = (rest > max(_SPIKE[0] * scale, _SPIKE[1] * float(np.median(loss[trunk])))).to_numpy()
    return found


def has_diverged(loss: np.ndarray) -> bool:
    """Whether the last rows lie well above the best that the run had reached."""
    if len(loss) < 10:
        return False
    size = max(len(loss) // 20, 3)
    means = loss[: len(loss) // size * size].reshape(-1, size).mean(axis=1)
    return bool(np.median(loss[-size:]) > 1.05 * means.min())
