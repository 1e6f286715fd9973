"""Rows of a log in blocks: their means, and how much these vary, so that many rows do not count as many facts."""

from dataclasses import dataclass

import numpy as np

from scaling.cluster.run import run_of
from scaling.plan import TrainingPlan
from scaling.track.predicted_curve import PredictedCurve

GAP_DRIFT = 0.003
"""Standard deviation of the gap's change over a factor e of tokens, as a fraction of the final loss."""
BRANCH_SD = 0.001
"""Standard deviation of one evaluation of a decayed branch, as a fraction of the loss."""
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
    """Covariance of the means [n, n]."""
    facts: float

    @property
    def residual(self) -> np.ndarray:
        return self.loss - self.expected

    def covariance(self, curve: PredictedCurve, gap: tuple[float, float]) -> np.ndarray:
        modes = curve.mode(self.tokens)
        drift = GAP_DRIFT * curve.end * np.log(self.tokens / self.tokens[-1]) * self.height
        return (
            modes.T @ modes
            + curve.run_sd**2
            + np.outer(self.height, self.height) * gap[1] ** 2
            + np.outer(drift, drift)
            + self.noise
        )

    def rows(self, covariance: np.ndarray) -> tuple[tuple[float, float, float, float, float], ...]:
        sd = np.sqrt(np.diag(covariance))
        columns = (self.tokens, self.loss, self.expected, sd, (self.height == 0).astype(float))
        return tuple(tuple(float(value) for value in row) for row in zip(*columns, strict=True))  # type: ignore[misc]


def blocks_of(
    plan: TrainingPlan,
    curve: PredictedCurve,
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
    noise = noise_of(residual[trunk], scale=float(predicted.mean()))
    edges = np.linspace(np.log(curve.tokens[0]), np.log(curve.tokens[-1] * 1.021), _BLOCKS + 1)
    number = np.where(trunk, np.digitize(np.log(tokens), edges), _BLOCKS + 2 + np.arange(len(tokens)))
    members = [np.flatnonzero(number == block) for block in np.unique(number)]
    members.sort(key=lambda rows: tokens[rows].mean())
    means = [np.array([values[rows].mean() for rows in members]) for values in (loss, predicted, height)]
    mean_loss, at, tall = means
    places = np.exp([np.log(tokens[rows]).mean() for rows in members])
    order = np.cumsum(trunk) - 1  # of a row among the trunk's
    of_trunk = [trunk[rows[0]] for rows in members]
    weights = np.zeros((len(members), int(trunk.sum())))
    for block, rows in enumerate(members):
        if of_trunk[block]:
            weights[block, order[rows]] = 1 / len(rows)
    covariance = noise.of_means(weights) + np.diag(np.where(of_trunk, 0.0, (BRANCH_SD * at) ** 2))
    facts = trunk.sum() / noise.memory + decayed.sum()
    return Blocks(places, mean_loss, at + gap[0] * tall, at, tall, covariance, float(facts))


@dataclass(frozen=True)
class Noise:
    """An autoregression of first order: what a row deviates from the run's smooth course."""

    variance: float
    """Of a row."""
    memory: float
    """Rows that one fact takes (the integrated autocorrelation time)."""

    def of_means(self, weights: np.ndarray) -> np.ndarray:
        """Covariance of the means that ``weights`` [n, rows] make of consecutive rows."""
        from scipy.signal import lfilter

        keep = (self.memory - 1) / (self.memory + 1)
        forward = np.asarray(lfilter([1.0], [1.0, -keep], weights, axis=1))
        backward = np.asarray(lfilter([1.0], [1.0, -keep], weights[:, ::-1], axis=1))[:, ::-1]
        return self.variance * weights @ (forward + backward - weights).T


def noise_of(residual: np.ndarray, *, scale: float) -> Noise:
    """The noise of rows about a smooth curve.

    The memory is that of the correlation of neighbours, corrected for the fit and the small number (Kendall's
    correction), or, where that is longer by half, that of means of batches.

    Args:
        residual: of consecutive rows.
        scale: the loss; ``BRANCH_SD`` of it stands in for a handful of rows.
    """
    count = len(residual)
    terms = min(3, count // 4)
    if count < 8:
        return Noise((4 * BRANCH_SD * scale) ** 2, 1.0)
    place = np.linspace(-1, 1, count)
    rest = residual - np.polynomial.polynomial.Polynomial.fit(place, residual, terms)(place)
    variance = float((rest**2).sum() / (count - 1 - terms))
    if variance <= 0:
        return Noise(1e-12, 1.0)
    first = float((rest[1:] * rest[:-1]).mean() / (rest**2).mean())
    first = min(max(first + ((1 + terms) * (1 + first) + 2 * first) / count, 0.0), 0.99)
    memory = (1 + first) / (1 - first)
    size = int(count**0.5)
    batches = rest[: count // size * size].reshape(-1, size).mean(axis=1)
    if len(batches) >= 8:
        longer = size * float(batches.var(ddof=1 + terms)) / variance
        memory = longer if longer > 1.5 * memory else memory
    return Noise(variance, float(min(max(memory, 1.0), count / 2)))


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
