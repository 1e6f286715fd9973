"""Resamples of a fit, all solved to convergence in batches from the fit itself."""

from dataclasses import replace
from typing import Literal

import numpy as np

from fits.solver.problem import Problem
from fits.solver.search import descend

Kind = Literal["pairs", "cluster", "wild", "residual", "normal"]

_BATCH = 1 << 21  # resamples x rows held at once


def bootstrap(
    problem: Problem, u: np.ndarray, kind: Kind, draws: int, clusters: np.ndarray | None, seed: int
) -> np.ndarray:
    """Solver coordinates of the refitted resamples, [draws, p]; those that met no minimum are left out.

    pairs: rows drawn with replacement. cluster: whole clusters drawn. wild: residuals, divided by one minus their
    leverage, put back with random signs (one sign a cluster when there are clusters). residual: the same, but each row
    gets the residual of a random row. normal: no refit; draws from the sandwich covariance, which is the limit of pairs
    for many rows.
    """
    rng = np.random.default_rng(seed)
    if draws == 0:
        return np.zeros((0, len(u)))
    if kind == "normal":
        return rng.multivariate_normal(u, sandwich(problem, u), size=draws, method="svd")
    n = problem.length
    batch = max(_BATCH // n, 8)
    fitted, bent = _enlarged_residuals(problem, u) if kind in ("wild", "residual") else (problem.target, problem.target)
    if clusters is None:
        groups, count = np.arange(n), n
    else:
        unique, groups = np.unique(clusters, return_inverse=True)
        count = len(unique)
    found = []
    for begin in range(0, draws, batch):
        size = min(batch, draws - begin)
        if kind == "wild":
            signs = rng.integers(0, 2, (size, count)) * 2.0 - 1.0
            resample = replace(problem, target=fitted + bent * signs[:, groups])
        elif kind == "residual":
            signs = rng.integers(0, 2, (size, n)) * 2.0 - 1.0
            resample = replace(problem, target=fitted + bent[rng.integers(0, n, (size, n))] * signs)
        else:
            counts = _draw_counts(rng, size, count)
            if clusters is not None:
                counts = counts[:, groups]
            resample = replace(problem, weights=problem.weights * counts)
        minima = descend(resample, np.repeat(u[None], size, axis=0))
        found.append(minima.u[np.isfinite(minima.value)])
    return np.concatenate(found)


def _draw_counts(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """How often each of ``count`` things is drawn in ``count`` draws with replacement, [size, count]."""
    drawn = rng.integers(0, count, (size, count))
    drawn += np.arange(size)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)


def _enlarged_residuals(problem: Problem, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fitted responses, and residuals as large as they would be on runs the fit had not seen."""
    fitted = problem.objective.response(problem.predictions(u))
    spread = 1.0 - np.minimum(leverage(problem, u), 0.9)
    return fitted, (problem.target - fitted) / spread


def leverage(problem: Problem, u: np.ndarray) -> np.ndarray:
    """How strongly each run pulls its own prediction, 0 to 1: the diagonal of the hat matrix, [n]."""
    root = np.sqrt(problem.weights)
    left, values, _ = np.linalg.svd(problem.jacobian(u) * root[:, None], full_matrices=False)
    return (left[:, values > 1e-10 * values[0]] ** 2).sum(axis=1)


def sandwich(problem: Problem, u: np.ndarray) -> np.ndarray:
    """Covariance of an M-estimator, [p, p]: inverse curvature around the spread of the rows' gradients."""
    size = len(u)
    meat = np.zeros((size, size))
    for block in problem.blocks:
        response = block.objective.response(block.predictions(u))
        residual = block.target - response
        bent = np.clip(residual, -block.objective.delta, block.objective.delta) * block.weights
        score = block.jacobian(u) * bent[:, None]
        meat += score.T @ score
    bread = np.linalg.pinv(problem.derivatives(u[None], "newton")[2][0] / problem.objective.scale, hermitian=True)
    return bread @ meat @ bread
