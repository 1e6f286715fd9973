"""What a fit minimises: a sum over runs of a Huber-type penalty on the log or the raw residual."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fits.errors import UserError, nearest

Curvature = Literal["newton", "reweighted"]
"""Second derivatives as they are, or the positive weights of iterated reweighted least squares."""

_NAMES = (
    "log-huber",
    "huber",
    "log-least-squares",
    "least-squares",
    "log-lad",
    "lad",
    "log-asymmetric",
    "asymmetric",
)
_SHARPEST = 1e-7  # least absolute deviation is the Huber penalty with a delta this small
_OVERESTIMATE = 10.0


@dataclass(frozen=True)
class Objective:
    """A penalty, summed (never averaged) over runs.

    ``log-`` objectives take the residual of logarithms. The penalty is quadratic within ``delta`` and linear beyond;
    least squares has an infinite delta, least absolute deviation (lad) next to none. ``asymmetric`` is lad with
    overestimates weighted tenfold: under-tuned runs, whose loss is too high, pull it up less.
    """

    name: str
    delta: float

    @property
    def in_logs(self) -> bool:
        return self.name.startswith("log-")

    @property
    def scale(self) -> float:
        if self.name.endswith("least-squares"):
            return 2.0  # the plain sum of squares
        return 1.0 if self.name.endswith("huber") else 1.0 / self.delta

    @property
    def overestimate(self) -> float:
        return _OVERESTIMATE if self.name.endswith("asymmetric") else 1.0

    def path(self) -> list["Objective"]:
        """Easier objectives to pass through on the way to a sharp one, this one last."""
        if not self.name.endswith(("lad", "asymmetric")):
            return [self]
        deltas = [self.delta * 10.0**step for step in range(5, -1, -1)]
        return [Objective(self.name, delta) for delta in deltas]

    def response(self, prediction: Any) -> Any:
        """The scale on which residuals are taken."""
        with np.errstate(all="ignore"):
            return np.log(prediction) if self.in_logs else prediction

    def penalties(self, residual: np.ndarray) -> np.ndarray:
        """Each run's share of the objective, before weights."""
        bent = np.clip(residual, -self.delta, self.delta)
        penalty = self.scale * bent * (residual - 0.5 * bent)
        return penalty if self.overestimate == 1.0 else np.where(residual < 0, self.overestimate, 1.0) * penalty

    def derivatives(
        self, prediction: np.ndarray, target: np.ndarray, weights: np.ndarray | float, curvature: Curvature
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The objective with its first and second derivatives by each prediction.

        Args:
            prediction: [B, n].
            target: data on the response scale, [n] or [B, n].
            weights: of the rows, [n] or [B, n].

        Returns:
            objective [B], first [B, n], second [B, n].
        """
        residual = np.log(prediction) if self.in_logs else prediction.copy()
        np.subtract(target, residual, out=residual)
        if self.scale != 1.0 or self.overestimate != 1.0:
            weights = weights * self.scale
            if self.overestimate != 1.0:
                weights = weights * np.where(residual < 0, self.overestimate, 1.0)
        if np.isinf(self.delta):
            pull = weights * residual
            bend = np.broadcast_to(weights, pull.shape)
            residual *= 0.5
        else:
            bent = np.clip(residual, -self.delta, self.delta)
            if curvature == "newton":
                bend = weights * (bent == residual)
            else:
                bend = weights * (self.delta / np.maximum(np.abs(residual), self.delta))
            pull = weights * bent
            bent *= 0.5
            residual -= bent
        value = np.einsum("bn,bn->b", pull, residual)
        if not self.in_logs:
            return value, np.negative(pull, out=pull), bend
        inverse = np.divide(1.0, prediction, out=residual)
        pull *= inverse
        bend = bend * inverse
        if curvature == "newton":
            bend += pull
        bend *= inverse
        return value, np.negative(pull, out=pull), bend


def make_objective(name: str, delta: float) -> Objective:
    """The objective of that name.

    Raises:
        UserError: the name is unknown or delta is not above zero.
    """
    if name not in _NAMES:
        raise UserError(f"There is no objective '{name}'{nearest(name, _NAMES)}; choose one of {', '.join(_NAMES)}.")
    if not (np.isfinite(delta) and delta > 0):
        raise UserError(f"delta is {delta}; it must be a number above 0, such as 1e-3.")
    if name.endswith("huber"):
        return Objective(name, delta)
    return Objective(name, np.inf if name.endswith("least-squares") else _SHARPEST)
