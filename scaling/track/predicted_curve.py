"""The promised curve between its points, with the law's errors and one run's own deviation."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fits.errors import UserError
from scaling.plan import TrainingPlan

USUAL_RUN_SD = 0.003
"""Of the loss; where the plan has none. Seeds of one recipe differ by 0.1 to 0.5 %."""


@dataclass(frozen=True)
class PredictedCurve:
    """The promise between its points, in the logarithm of tokens."""

    tokens: np.ndarray
    values: np.ndarray
    modes: np.ndarray
    """[K, points]"""
    run_sd: float
    notes: tuple[str, ...]

    @classmethod
    def of(cls, plan: TrainingPlan, run_sd: float | None) -> "PredictedCurve":
        points, predicted = plan.prediction.curve, plan.prediction
        if len(points) < 2:
            raise UserError(
                f"plan '{plan.name}': prediction.curve is missing; plan again from a law, which draws the curve."
            )
        notes = []
        modes = [point.modes for point in points]
        width = max(len(each) for each in modes)
        if width and all(len(each) == width for each in modes):
            table = np.array(modes).T
        else:  # a spread of laws: taken as one error common to all points, an interval of 90 %
            half = [(point.high - point.low) / 2 for point in points]
            table = np.array([half]) / NormalDist().inv_cdf(0.95)
            notes.append("the plan's curve has a band and no modes: the band is taken as one common error at 90 %")
        if run_sd is None:
            run_sd = predicted.run_sd
        if run_sd is None:
            run_sd = USUAL_RUN_SD * predicted.value
            notes.append(f"the plan has no run_sd: {run_sd:.3g} {predicted.unit} is assumed for one run")
        order = np.argsort([point.tokens for point in points])
        tokens = np.array([float(point.tokens) for point in points])[order]
        values = np.array([point.value for point in points])[order]
        return cls(tokens, values, table[:, order], run_sd, tuple(notes))

    def value(self, tokens: np.ndarray) -> np.ndarray:
        return np.interp(np.log(tokens), np.log(self.tokens), self.values)

    def mode(self, tokens: np.ndarray) -> np.ndarray:
        """[K, n]"""
        return np.array([np.interp(np.log(tokens), np.log(self.tokens), mode) for mode in self.modes])

    @property
    def end(self) -> float:
        return float(self.values[-1])

    @property
    def end_sd(self) -> float:
        return math.sqrt(float((self.modes[:, -1] ** 2).sum()) + self.run_sd**2)
