"""A frontier of mixtures, and its largest run predicted."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "Marin grug MoE (released README)"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "marin_moe_v16" / "best_per_budget.csv")
    fitted, held = frame[frame.used_in_published_fit == 1], frame[frame.used_in_published_fit == 0].iloc[0]
    bind = {"C": "flops_budget", "loss": "paloma_macro_loss"}
    settings = {"fix": {"E": 1.6}, "bootstrap": 0, "objective": "log-least-squares"}
    fit = fits.fit("power-law", fitted, bind=bind, **settings)
    yield "exponent with the floor pinned at 1.6", 0.0941, fit.values["alpha"]
    yield "loss predicted at 1e21", 2.606, fit.predict(C=1e21)
    yield "loss measured at 1e21, against our prediction", float(held.paloma_macro_loss), fit.predict(C=1e21)
