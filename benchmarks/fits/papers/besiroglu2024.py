"""Hoffmann's runs fitted again, with the intervals of the study's own resamples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from benchmarks.fits.papers import Row
from fits.solver.coordinates import Coordinates
from fits.solver.model import bind as bind_model
from fits.solver.objective import make_objective
from fits.solver.problem import Problem
from fits.solver.search import descend
from fits.tables.binding import bind_table
from fits.tables.files import read_table
from fits.tables.runs import filter_rows

SOURCE = "Besiroglu et al. (arXiv 2404.10102)"
RESAMPLES = 4000


def rows(data: Path) -> Iterator[Row]:
    bind = {"N": "`Model Size`", "D": "`Training FLOP`/(6*`Model Size`)"}
    kept = study_runs(data)
    lad = fits.fit("hoffmann", kept, bind=bind, objective="log-lad", bootstrap=0)
    for name, value in {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}.items():
        yield f"printed point (least absolute deviation): {name}", value, lad.values[name]
    yield "least absolute deviation, objective", 1.129494664, lad.objective.value
    huber = fits.fit("hoffmann", kept, bind=bind, bootstrap=0)
    yield "Huber 1e-3, objective", 1.0182740346e-3, huber.objective.value
    ends = {"A": (285.214, 743.626), "B": (1042.357, 5810.344), "E": (1.769, 1.871)}
    ends |= {"alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    draws, _ = resamples(kept, bind, huber)
    for name, (low, high) in ends.items():
        ours = np.percentile(draws[:, list(huber.parameters).index(name)], [2.5, 97.5])
        yield f"95 % interval of {name}, low (their 4000 resamples, each solved)", low, float(ours[0])
        yield f"95 % interval of {name}, high (their 4000 resamples, each solved)", high, float(ours[1])
    every = fits.fit("hoffmann", all_runs(data), bind=bind, bootstrap=0)
    yield "Huber 1e-3 on all 245 rows, objective", 1.8260105231e-3, every.objective.value


def all_runs(data: Path) -> pd.DataFrame:
    return read_table(data / "epoch_chinchilla" / "svg_extracted_data.csv")


def study_runs(data: Path) -> pd.DataFrame:
    """Without the five of highest loss, which the study leaves out."""
    frame = all_runs(data)
    return filter_rows(frame, f"loss < {float(np.sort(frame['loss'])[-5])!r}")


def resamples(frame: pd.DataFrame, bind: dict[str, str], fit: fits.Fit) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [4000, 5] and objectives [4000] of the notebook's own resamples, each solved from ``fit``.

    They are drawn by NumPy's legacy generator with seed 42.
    """
    law = fits.get_law("hoffmann")
    bound = bind_table(law, frame, bind=bind)
    model = bind_model(law.expression, bound.variables, law.parameter_names, law.parameter_names)
    coordinates = Coordinates(tuple(each.domain for each in law.parameters), model.logarithmic)
    rows = len(bound.loss)
    np.random.seed(42)
    drawn = [np.random.choice(np.arange(rows), size=rows, replace=True) for _ in range(RESAMPLES)]
    counts = np.array([np.bincount(each, minlength=rows) for each in drawn], dtype=float)
    problem = Problem(model, coordinates, make_objective("log-huber", 1e-3), np.log(bound.loss), counts)
    start = coordinates.solver(np.array(list(fit.values.values())))
    found = descend(problem, np.repeat(start[None], RESAMPLES, axis=0))
    return coordinates.parameters(found.u), found.value
