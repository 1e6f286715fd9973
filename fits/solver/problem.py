"""One minimisation: a model, its data and an objective, evaluated for a batch of solver coordinates."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fits.solver.coordinates import Coordinates
from fits.solver.model import Model
from fits.solver.objective import Curvature, Objective

_BLOCK = 1 << 15  # members x rows worked on at once: temporaries stay in the cache
_ROWS = 1 << 14


@dataclass(frozen=True)
class Problem:
    """sum over rows of weight * penalty(target - response(prediction)).

    ``target`` and ``weights`` are [n], or [B, n] to give each member of a batch its own (resamples).
    """

    model: Model
    coordinates: Coordinates
    objective: Objective
    target: np.ndarray
    weights: np.ndarray

    @property
    def length(self) -> int:
        return self.target.shape[-1]

    def with_objective(self, objective: Objective) -> "Problem":
        return replace(self, objective=objective)

    def rows(self, chosen: slice | np.ndarray) -> "Problem":
        """The same problem on some of the rows."""
        return replace(
            self,
            model=self.model.rows(chosen),
            target=self.target[..., chosen],
            weights=self.weights[..., chosen],
        )

    @cached_property
    def blocks(self) -> "list[Problem]":
        """The problem cut by rows, so that its temporaries stay small."""
        if self.length <= _ROWS:
            return [self]
        return [self.rows(slice(start, start + _ROWS)) for start in range(0, self.length, _ROWS)]

    def _parts(self, batch: int) -> list[slice]:
        step = max(1, _BLOCK // min(self.length, _ROWS))
        return [slice(start, start + step) for start in range(0, batch, step)]

    def derivatives(
        self, u: np.ndarray, curvature: Curvature, members: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective [B], gradient [B, p] and Hessian [B, p, p] by solver coordinates; infinite where undefined.

        ``members`` says whose targets and weights each of the B vectors answers to; all in order when left out.
        """
        batch, size = u.shape
        members = np.arange(batch) if members is None else members
        natural = self.coordinates.natural(u)
        value, gradient, hessian = np.zeros(batch), np.zeros((batch, size)), np.zeros((batch, size, size))
        with np.errstate(all="ignore"):
            for part in self._parts(batch):
                for block in self.blocks:
                    prediction, state = block.model.forward(natural[part])
                    target = block.target if block.target.ndim == 1 else block.target[members[part]]
                    weights = block.weights if block.weights.ndim == 1 else block.weights[members[part]]
                    summed, first, second = block.objective.derivatives(prediction, target, weights, curvature)
                    slope, curve = block.model.contract(state, first, second)
                    value[part] += summed
                    gradient[part] += slope
                    hessian[part] += curve
            if not self.coordinates.logarithmic.all():
                slope, bend = self.coordinates.slopes(u)
                hessian *= slope[:, :, None] * slope[:, None, :]
                if curvature == "newton":
                    index = np.arange(size)
                    hessian[:, index, index] += gradient * bend
                gradient *= slope
            value[~np.isfinite(value)] = np.inf
        return value, gradient, hessian

    def values(self, u: np.ndarray) -> np.ndarray:
        """Objective [B]; infinite where the prediction is undefined."""
        natural = self.coordinates.natural(u)
        total = np.zeros(len(u))
        with np.errstate(all="ignore"):
            for part in self._parts(len(u)):
                for block in self.blocks:
                    prediction, _ = block.model.forward(natural[part])
                    residual = block.target - block.objective.response(prediction)
                    total[part] += (block.weights * block.objective.penalties(residual)).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf)

    def predictions(self, u: np.ndarray) -> np.ndarray:
        """Predictions at one point [p]: [n]."""
        with np.errstate(all="ignore"):
            natural = self.coordinates.natural(u[None])
            return np.concatenate([block.model.forward(natural)[0][0] for block in self.blocks])

    def jacobian(self, u: np.ndarray) -> np.ndarray:
        """Derivatives of the response at one point [p] by the solver coordinates: [n, p]."""
        with np.errstate(all="ignore"):
            prediction, state = self.model.forward(self.coordinates.natural(u[None]))
            jacobian = self.model.jacobian(state)[0] * self.coordinates.slopes(u)[0]
            return jacobian / prediction[0][:, None] if self.objective.in_logs else jacobian
