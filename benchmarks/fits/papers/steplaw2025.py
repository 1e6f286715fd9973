"""The best rate and batch of each size and length of training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "Li et al., Step Law (arXiv 2503.04715)"


def rows(data: Path) -> Iterator[Row]:
    """Optimal rate and batch of each (N, D) from a surface in both logs, then a power law through the cells.

    The loss rises faster above the best rate than below it, so a quadratic puts the rate's optimum elsewhere than a
    quartic; the paper smooths in a way that it does not describe.
    """
    frame = read_table(data / "steplaw" / "dense_lr_bs_loss.csv")
    settings = {"objective": "log-least-squares", "bootstrap": 0}
    for degree, within in ((2, 0.05), (4, 0.1)):
        optima = pd.DataFrame([surface_optimum(cell, degree, within) for _, cell in frame.groupby(["N", "D"])])
        rate = fits.fit("learning-rate-size-data", optima, bind={"N": "N", "D": "D"}, **settings)
        batch = fits.fit("batch-data", optima, bind={"D": "D"}, **settings)
        how = f"degree {degree} a cell"
        yield f"learning rate, exponent of N ({how})", -0.71224, rate.values["p"]
        yield f"learning rate, exponent of D ({how})", 0.30698, rate.values["q"]
        yield f"batch, exponent of D ({how})", 0.57131, batch.values["q"]


def surface_optimum(cell: pd.DataFrame, degree: int, within: float) -> dict[str, float]:
    """The lowest point of a polynomial through one cell's runs that are within so many nats of the best."""
    near = cell[cell["smooth loss"] <= cell["smooth loss"].min() + within]
    rate, batch = np.log(near["lr"].to_numpy()), np.log(near["bs"].to_numpy() * 2048)
    x, y = rate - rate.mean(), batch - batch.mean()
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    values = np.stack([x**i * y**j for i, j in powers], axis=1)
    coefficients = np.linalg.lstsq(values, near["smooth loss"].to_numpy(), rcond=None)[0]
    grid = np.meshgrid(np.linspace(x.min(), x.max(), 300), np.linspace(y.min(), y.max(), 300))
    height = sum(each * grid[0] ** i * grid[1] ** j for each, (i, j) in zip(coefficients, powers, strict=True))
    lowest = np.argmin(height)
    return {
        "N": float(near["N"].iloc[0]),
        "D": float(near["D"].iloc[0]),
        "learning_rate": float(np.exp(grid[0].flat[lowest] + rate.mean())),
        "batch_tokens": float(np.exp(grid[1].flat[lowest] + batch.mean())),
    }
