"""The fits of public packages and of one study, timed on one table.

`speed.py` runs this in an environment of its own.

Needs: chinchilla, simple-scaling-laws, autograd, scipy, pandas.

Run: python benchmarks/fits/peers.py TABLE.csv OUT.json   (columns N, D, loss)
"""

import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import autograd
import autograd.numpy as traced
import numpy as np
import pandas as pd
import polars
from autograd.scipy.special import logsumexp
from scipy.optimize import minimize

DELTA = 1e-3
GRID = {
    "a": [0.0, 5, 10, 15, 20, 25],
    "b": [0.0, 5, 10, 15, 20, 25],
    "e": [-1, -0.5, 0, 0.5, 1],
    "alpha": [0, 0.5, 1, 1.5, 2],
    "beta": [0, 0.5, 1, 1.5, 2],
}
"""The 4500 starts of arXiv 2203.15556, section D.2."""
RESAMPLES = 4000


def cpu_seconds() -> float:
    """Of this process and its children."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(job: Callable[[], object]) -> dict[str, object]:
    """CPU and wall seconds of a job, and what it returned."""
    begin, wall = cpu_seconds(), time.monotonic()
    found = job()
    return {"cpu_seconds": cpu_seconds() - begin, "wall_seconds": time.monotonic() - wall, "found": found}


def objective(p, x, y, target):
    """Huber on the log residual, summed; p = (log A, log B, log E, alpha, beta)."""
    terms = np.stack([p[0] - p[3] * x, p[1] - p[4] * y, np.full_like(x, p[2])])
    top = terms.max(axis=0)
    size = np.abs(target - top - np.log(np.exp(terms - top).sum(axis=0)))
    return np.sum(np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)))


def traced_objective(p, x, y, target):
    """The same, for automatic gradients."""
    terms = traced.stack([p[0] - p[3] * x, p[1] - p[4] * y, p[2] + 0 * x])
    size = traced.abs(target - logsumexp(terms, axis=0))
    return traced.sum(traced.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)))


def study_grid(x, y, target) -> float:
    """arXiv 2404.10102's point: L-BFGS-B with numerical gradients from every start."""
    starts = itertools.product(*GRID.values())
    return min(float(minimize(objective, start, (x, y, target), method="L-BFGS-B").fun) for start in starts)


def study_bootstrap(x, y, target) -> list[float]:
    """Its intervals: one BFGS with automatic gradients for each resample, from Hoffmann's parameters."""
    np.random.seed(42)
    start = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])
    gradient = autograd.grad(traced_objective)
    reached = []
    for _ in range(RESAMPLES):
        rows = np.random.choice(np.arange(len(x)), size=len(x), replace=True)
        sample = x[rows], y[rows], target[rows]
        reached.append(float(minimize(objective, start, sample, jac=gradient, method="BFGS").fun))
    return reached


def chinchilla_package(frame: pd.DataFrame) -> float:
    """Hoffmann's starts and objective in the `chinchilla` package."""
    import chinchilla

    def loss(truth, prediction):
        size = np.abs(np.log(truth) - np.log(prediction))
        return np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2))

    with tempfile.TemporaryDirectory() as folder:
        frame.assign(C=6 * frame["N"] * frame["D"])[["C", "N", "D", "loss"]].to_csv(
            Path(folder) / "df.csv", index=False
        )
        grid = {"E": np.exp(GRID["e"]), **{name: GRID[name] for name in ("a", "b", "alpha", "beta")}}
        found = chinchilla.Chinchilla(folder, param_grid=grid, loss_fn=loss, log_level=50)
        found.fit(parallel=False)
        point = np.array([np.log(found.A), np.log(found.B), np.log(found.E), found.alpha, found.beta], dtype=float)
    return float(objective(point, *(np.log(frame[name].to_numpy()) for name in ("N", "D", "loss"))))


def simple_scaling_laws(frame: pd.DataFrame, draws: int) -> dict[str, float]:
    """Least squares with wild draws in the `simple-scaling-laws` package."""
    import simple_scaling_laws as package

    columns = {
        "training_run_id": [f"run{index}" for index in range(len(frame))],
        "model_size__n_params": frame["N"].to_numpy(),
        "dataset_size__n_tokens": frame["D"].to_numpy(),
        "test_loss__cross_entropy": frame["loss"].to_numpy(),
    }
    model = package.fit(polars.DataFrame(columns), law="separable-power", n_draws=draws, seed=0)
    return {name: float(value) for name, value in model.params("test_loss__cross_entropy").items()}


def main() -> None:
    frame = pd.read_csv(sys.argv[1])
    logs = tuple(np.log(frame[name].to_numpy()) for name in ("N", "D", "loss"))
    simple_scaling_laws(frame, 10)  # imports and compilation are no part of a fit
    found = {"simple-scaling-laws, 4000 draws": timed(lambda: simple_scaling_laws(frame, RESAMPLES))}
    found["study, 4500 starts"] = timed(lambda: study_grid(*logs))
    found["study, 4000 resamples"] = timed(lambda: study_bootstrap(*logs))
    found["chinchilla package, 4500 starts"] = timed(lambda: chinchilla_package(frame))
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
