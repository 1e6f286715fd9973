"""Damped semismooth Newton for a batch of small problems at once (Levenberg-Marquardt with Nielsen's damping)."""

from dataclasses import dataclass

import numpy as np

from fits.solver.objective import Curvature
from fits.solver.problem import Problem

_TOLERANCE = 1e-13
_STUCK = 1e10


@dataclass(frozen=True)
class Minima:
    """Where a batch of descents ended: solver coordinates [B, p], objective [B], and which met the tolerance [B]."""

    u: np.ndarray
    value: np.ndarray
    met: np.ndarray


def minimise(
    problem: Problem,
    start: np.ndarray,
    *,
    curvature: Curvature = "newton",
    iterations: int = 100,
    damping: float = 1e-8,
    tolerance: float = _TOLERANCE,
) -> Minima:
    """Descend from every start [B, p]; a member leaves the batch once its predicted gain is below the tolerance."""
    u = np.array(start, dtype=float)
    members = np.arange(len(u))  # still in the batch
    value, gradient, hessian = problem.derivatives(u, curvature)
    values, met = value.copy(), np.zeros(len(u), dtype=bool)
    lam, growth = np.full(len(u), damping), np.full(len(u), 2.0)
    here = u.copy()
    floor = 1e-30 * problem.length
    for _ in range(iterations):
        step, gain = _step(gradient, hessian, lam)
        trial = here + step
        tried, slope, curve = problem.derivatives(trial, curvature, members)
        usable = np.isfinite(slope).all(axis=1) & np.isfinite(curve).all(axis=(1, 2))
        better = usable & (tried <= value)
        arrived = (gain <= tolerance * value + floor) & (lam <= 1e-3)
        with np.errstate(invalid="ignore", over="ignore"):  # members whose trial step left the law's domain
            ratio = np.where(better, (value - tried) / np.maximum(gain, 1e-300), 0.0)
        here[better], value[better] = trial[better], tried[better]
        gradient[better], hessian[better] = slope[better], curve[better]
        lam = np.where(better, lam * np.maximum(0.1, 1 - (2 * np.minimum(ratio, 1) - 1) ** 3), np.maximum(lam, 1e-4))
        lam = np.maximum(np.where(better, lam, lam * growth), 1e-14)
        growth = np.where(better, 2.0, growth * 2.0)
        leaving = arrived | (lam > _STUCK)
        if leaving.any():
            u[members], values[members] = here, value
            met[members[leaving]] = arrived[leaving]
            stay = ~leaving
            members = members[stay]
            if len(members) == 0:
                return Minima(u, values, met)
            here, value, gradient, hessian = here[stay], value[stay], gradient[stay], hessian[stay]
            lam, growth = lam[stay], growth[stay]
    u[members], values[members] = here, value
    return Minima(u, values, met)


def _step(gradient: np.ndarray, hessian: np.ndarray, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The damped Newton step and the gain it predicts; raises ``lam`` in place until the matrix is definite."""
    index = np.arange(hessian.shape[1])
    diagonal = np.abs(hessian[:, index, index])
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    right = -gradient * scale
    step, definite = solve(scaled, right, lam)
    while not definite.all():
        wrong = ~definite
        lam[wrong] = np.maximum(10 * lam[wrong], 1e-4)
        step[wrong], definite[wrong] = solve(scaled[wrong], right[wrong], lam[wrong])
        definite |= lam > _STUCK
    gain = np.einsum("bp,bp->b", step, right) - 0.5 * np.einsum("bp,bpq,bq->b", step, scaled, step)
    return step * scale, gain


def solve(matrix: np.ndarray, right: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve (matrix + shift I) x = right for a batch of small symmetric systems by LDL^T.

    Returns:
        x [B, p] and whether each matrix is positive definite [B]; x is zero where it is not.
    """
    size = matrix.shape[1]
    work = matrix.copy()
    index = np.arange(size)
    work[:, index, index] += shift[:, None]
    x = right.copy()
    definite = np.ones(len(matrix), dtype=bool)
    pivots = np.empty_like(right)
    with np.errstate(all="ignore"):  # what overflows is not positive definite and is thrown away
        for k in range(size):
            pivot = work[:, k, k]
            definite &= pivot > 1e-13
            pivots[:, k] = np.where(definite, pivot, 1.0)
            if k + 1 < size:
                column = work[:, k + 1 :, k] / pivots[:, k, None]
                work[:, k + 1 :, k + 1 :] -= column[:, :, None] * work[:, None, k, k + 1 :]
                work[:, k + 1 :, k] = column
                x[:, k + 1 :] -= column * x[:, k, None]
        x /= pivots
        for k in range(size - 2, -1, -1):
            x[:, k] -= np.einsum("bi,bi->b", work[:, k + 1 :, k], x[:, k + 1 :])
    x[~definite] = 0.0
    return x, definite
