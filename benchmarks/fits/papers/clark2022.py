"""Routed models of three routers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table
from fits.tables.runs import filter_rows

SOURCE = "Clark et al. (arXiv 2202.01169)"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "clark_routing" / "final_step.csv")
    refit = {
        "S-Base": {"a": -0.0830, "b": -0.1180, "c": 0.0099, "d": 1.1136, "mse": 1.0417e-5},
        "RL-R": {"a": -0.0827, "b": -0.1234, "c": 0.0112, "d": 1.1070, "mse": 1.0428e-5},
        "Hash": {"a": -0.0874, "b": -0.1384, "c": 0.0126, "d": 1.1595, "mse": 8.890e-6},
    }
    for router, expected in refit.items():
        kinds = f"(router_type == 'Dense' or router_type == '{router}')"
        rows = filter_rows(frame, f"{kinds} and routing_frequency == 0.5 and k == 1 and seed == 42")
        bind = {"N": "dense_parameter_count", "E": "num_experts", "loss": "loss_validation"}
        fit = fits.fit("clark", rows, bind=bind, objective="log-least-squares", bootstrap=0)
        ours = {**fit.values, "mse": fit.objective.value / fit.n_runs / np.log(10) ** 2}
        for name, value in expected.items():
            yield f"{router}: {name} (200-start refit)", value, ours[name]
