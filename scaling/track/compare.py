"""Is a run on its plan's curve? A Gaussian comparison that knows what is uncertain and what hangs together.

The residual of a row is ``loss - predicted(tokens) - offset``. Under the promise it has four parts: the law's error
(the plan's modes, common to all rows), this run's own deviation (``run_sd``, common too), the gap of a run that is not
decayed (below), and noise of the rows, whose autocorrelation is estimated.

The law predicts losses of runs that were decayed to their end. A run at a high learning rate lies above that by a gap
that the plan does not hold: it is taken as ``gap x (rate - final) / (peak - final)``, with the gap a nuisance that has
a prior. Rows that are marked as decayed have none.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from scaling.plan import TrainingPlan
from scaling.track.blocks import Blocks, blocks_of, has_diverged, spikes_of
from scaling.track.log import Log
from scaling.track.predicted_curve import PredictedCurve
from scaling.track.units import in_plan_unit

USUAL_GAP = (0.03, 0.015)
"""Mean and standard deviation of the gap as a fraction of the loss, where the user gives none: decays over the last
10 to 20 % gain about 2 to 5 % (arXiv 2404.06395, 2405.18392)."""
_TREND = 4
"""Blocks from which the trend is tested beside the level."""


@dataclass(frozen=True)
class Comparison:
    """The answer, and what it rests on. Losses are in the plan's unit."""

    verdict: str
    """on the curve, above the curve, below the curve, diverged, or too early."""
    p_value: float | None
    """Of a deviation in level and trend at least this large, if the promise holds."""
    deviation: float | None
    """This run's loss over the promised one, less 1, in the best estimate of a constant factor."""
    deviation_sd: float | None
    detectable: float | None
    """The constant factor (less 1) that such a log would show with 80 % probability."""
    end: float | None
    """Predicted final loss: the promise, updated by the log."""
    end_low: float | None
    end_high: float | None
    end_if_it_stays_off: float | None
    """The promise times 1 + deviation, where the run is off the curve."""
    promised: float
    promised_low: float
    promised_high: float
    level: float
    """Of the intervals."""
    rows: int
    """Compared."""
    facts: float
    """Independent rows that these are worth."""
    tokens: int
    """At the last row."""
    spikes: int
    gap: tuple[float, float]
    """Prior mean and standard deviation of the gap of an undecayed run."""
    notes: tuple[str, ...]
    blocks: tuple[tuple[float, float, float, float, float], ...]
    """tokens, mean loss, expected loss, its standard deviation, 1 when decayed; for the plot."""


def compare(
    plan: TrainingPlan,
    log: Log,
    *,
    level: float = 0.9,
    alarm: float = 0.05,
    gap: tuple[float, float] | None = None,
    run_sd: float | None = None,
) -> Comparison:
    """Compare a log with the plan's curve.

    Args:
        plan: with a curve.
        log: of the run.
        level: of the intervals of the end.
        alarm: probability of saying that a run is off its curve when the promise holds; for one look.
        gap: mean and standard deviation of the gap of an undecayed run, in the plan's unit.
        run_sd: standard deviation of one run about the law, in the plan's unit; the plan's when left out.

    Raises:
        UserError: the plan has no curve, or the log's unit cannot be told or brought into the plan's.
    """
    curve = PredictedCurve.of(plan, run_sd)
    notes = [*log.notes, *curve.notes]
    gap = gap or (USUAL_GAP[0] * curve.end, USUAL_GAP[1] * curve.end)
    comparable = (log.tokens >= curve.tokens[0]) & (log.tokens <= 1.02 * curve.tokens[-1])
    warm = log.tokens >= plan.schedule.warmup_tokens
    if (left := int((~(comparable & warm)).sum())) > 0:
        notes.append(f"{left} rows outside the curve ({curve.tokens[0]:.3g} to {curve.tokens[-1]:.3g} tokens) left out")
    use = comparable & warm
    if not use.any():
        return _nothing(plan, curve, log, level, gap, notes)
    tokens, loss, decayed = log.tokens[use], log.loss[use], log.decayed[use]
    loss, converted = in_plan_unit(plan, loss, curve.value(tokens), log.unit, log.source)
    notes += converted
    spikes = spikes_of(loss - curve.value(tokens), loss, decayed)
    if spikes.any():
        notes.append(f"{int(spikes.sum())} spikes left out, the highest {loss[spikes].max():.4g}")
    tokens, loss, decayed = tokens[~spikes], loss[~spikes], decayed[~spikes]
    blocks = blocks_of(plan, curve, tokens, loss, decayed, gap)
    if not decayed.all():
        notes.append(
            f"undecayed rows: the gap to a decayed run is taken as {gap[0]:.3g} +- {gap[1]:.3g} "
            f"{plan.prediction.unit}; rows with decayed = 1, or --gap from your proxies, sharpen this"
        )
    if not log.is_validation:
        notes.append(
            "the promise is of validation loss, and the log's is not said to be one; a training loss agrees while no "
            "text is repeated"
        )
    covariance = blocks.covariance(curve, gap)
    deviation, sd, p_value = _test(blocks, covariance)
    end, end_sd = _end(blocks, covariance, curve)
    z = NormalDist().inv_cdf((1 + level) / 2)
    off = p_value < alarm
    verdict = "on the curve" if not off else ("above the curve" if deviation > 0 else "below the curve")
    if log.ends_in_nan or has_diverged(loss[~decayed]):
        verdict = "diverged"
    reach = _reach(alarm, 2 if len(blocks.curve) >= _TREND else 1) * sd
    return Comparison(
        verdict=verdict,
        p_value=p_value,
        deviation=deviation,
        deviation_sd=sd,
        detectable=reach,
        end=end,
        end_low=end - z * end_sd,
        end_high=end + z * end_sd,
        end_if_it_stays_off=curve.end * (1 + deviation) if off else None,
        promised=curve.end,
        promised_low=curve.end - z * curve.end_sd,
        promised_high=curve.end + z * curve.end_sd,
        level=level,
        rows=len(loss),
        facts=blocks.facts,
        tokens=int(log.tokens[-1]),
        spikes=int(spikes.sum()),
        gap=gap,
        notes=tuple(notes),
        blocks=blocks.rows(covariance),
    )


def _test(blocks: Blocks, covariance: np.ndarray) -> tuple[float, float, float]:
    """Deviation as a factor less 1, its standard deviation, and the p-value of level and trend together."""
    inverse = np.linalg.inv(covariance)
    level = blocks.curve
    information = float(level @ inverse @ level)
    deviation = float(level @ inverse @ blocks.residual) / information
    directions = [level]
    if len(level) >= _TREND:
        directions.append(level * (np.log(blocks.tokens) - np.log(blocks.tokens).mean()))
    design = np.array(directions).T
    score = design.T @ inverse @ blocks.residual
    statistic = float(score @ np.linalg.solve(design.T @ inverse @ design, score))
    if len(directions) == 1:
        return deviation, information**-0.5, math.erfc(math.sqrt(statistic / 2))
    return deviation, information**-0.5, math.exp(-statistic / 2)  # chi-squared of two degrees


def _reach(alarm: float, degrees: int, power: float = 0.8) -> float:
    """Standard deviations that a deviation must have to be seen with this probability."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, ncx2

    limit = chi2.isf(alarm, degrees)
    return float(brentq(lambda size: ncx2.sf(limit, degrees, size**2) - power, 0.1, 10))  # pyright: ignore


def _end(blocks: Blocks, covariance: np.ndarray, curve: PredictedCurve) -> tuple[float, float]:
    """Mean and standard deviation of the final loss, given the blocks."""
    last = curve.modes[:, -1]
    shared = last @ curve.mode(blocks.tokens) + curve.run_sd**2
    gain = np.linalg.solve(covariance, shared)
    variance = curve.end_sd**2 - float(shared @ gain)
    return curve.end + float(gain @ blocks.residual), math.sqrt(max(variance, 0.0))


def _nothing(
    plan: TrainingPlan, curve: PredictedCurve, log: Log, level: float, gap: tuple[float, float], notes: list[str]
) -> Comparison:
    z = NormalDist().inv_cdf((1 + level) / 2)
    half = z * curve.end_sd
    return Comparison(
        verdict="diverged" if log.ends_in_nan else "too early",
        p_value=None, deviation=None, deviation_sd=None, detectable=None,
        end=None, end_low=None, end_high=None, end_if_it_stays_off=None,
        promised=curve.end, promised_low=curve.end - half, promised_high=curve.end + half,
        level=level, rows=0, facts=0.0, tokens=int(log.tokens[-1]), spikes=0, gap=gap, notes=tuple(notes), blocks=(),
    )  # fmt: skip
