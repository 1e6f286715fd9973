"""Hoffmann's law on three isoFLOP tables."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "IsoFLOP tables gathered by Open Athena (arXiv 2603.22339)"


def rows(data: Path) -> Iterator[Row]:
    targets = {
        ("llama_3", "llama_3__exp_loss"): (2.545450e-4, 0.3267, 0.3654),
        ("llama_3", "llama_3__raw_loss"): (3.904679e-4, 0.2835, 0.3157),
        ("ml_scalefit", None): (5.792622e-4, 0.3777, 0.3928),
        ("misfitting", None): (1.729642e-3, 0.6102, 0.7048),
    }
    for (name, experiment), (objective, alpha, beta) in targets.items():
        frame = read_table(data / "openathena_isoflops" / f"{name}.csv")
        if experiment is not None:
            frame = frame[frame.experiment == experiment]
        fit = fits.fit("hoffmann", frame, bind={"N": "params", "D": "tokens", "loss": "loss"}, bootstrap=0)
        label = experiment or name
        yield f"{label}: objective", objective, fit.objective.value
        yield f"{label}: alpha", alpha, fit.values["alpha"]
        yield f"{label}: beta", beta, fit.values["beta"]
