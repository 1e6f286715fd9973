"""What repeated tokens are worth."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fits
from benchmarks.fits.papers import Row
from fits.solver.objective import make_objective
from fits.tables.binding import bind_table
from fits.tables.files import read_table

SOURCE = "Muennighoff et al. (arXiv 2305.16264)"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "muennighoff" / "fit_set_182.csv")
    bind = {"N": "params_b*1e9", "D": "tokens_b*1e9", "U": "unique_tokens_b*1e9", "loss": "val_loss"}
    published = fits.published("muennighoff").record.coefficients
    base = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804)}
    base |= {"alpha": published["alpha"], "beta": published["beta"]}
    law = fits.get_law("muennighoff")
    bound = bind_table(law, frame, bind=bind)
    theirs = {**base, "R_D": published["R_D"], "R_N": published["R_N"]}
    residual = np.log(bound.loss) - np.log(law.evaluate(theirs, bound.variables))
    value = float(make_objective("log-huber", 1e-3).penalties(residual).sum())
    yield "objective of the printed R_D*, R_N*", 0.015825936570763588, value
    fit = fits.fit(law, frame, bind=bind, fix=base, bootstrap=0)
    yield "least objective (the printed point is a local minimum)", 0.015825936570763588, fit.objective.value
    yield "R_D* at the least objective", 15.387756, fit.values["R_D"]
    yield "R_N* at the least objective", 5.309743, fit.values["R_N"]
