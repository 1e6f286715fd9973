"""A fit whose optimiser did not leave its start."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "FLAME-MoE (arXiv 2505.20225), 10 of 80 rows"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "flame_moe" / "visible_rows_10_of_80.csv")
    bind = {"N": "active_params", "D": "flops/(6*active_params)", "loss": "val_loss"}
    stuck = fits.published("flame").record.coefficients
    held = {name: value for name, value in stuck.items() if name in ("A", "B")}
    theirs = fits.fit("hoffmann", frame, bind=bind, fix=held, bootstrap=0).objective.value
    ours = fits.fit("hoffmann", frame, bind=bind, bootstrap=0).objective.value
    yield "objective with A and B where their optimiser began; free", theirs, ours
