"""A ladder of small runs, and two large ones predicted."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "Bhagia et al., OLMo ladder (arXiv 2412.04403), measured loss against our extrapolation"


def rows(data: Path) -> Iterator[Row]:
    """Fit the ladder's finished runs (190M to 3B), predict the 7B and the 13B."""
    frame = read_table(data / "olmo_ladder" / "losses_by_step.csv.gz")
    loss, seen = "eval/c4_en-validation/CrossEntropyLoss", "throughput/total_tokens"
    last = frame.dropna(subset=[loss]).sort_values("_step").groupby("file").tail(1).copy()
    sizes = {"190M": 190354176, "370M": 371262464, "760M": 758220288, "1B": 1279395840, "3B": 3169537280}
    ladder = last[last.file.str.contains("xC")].copy()
    ladder["N"] = [float(sizes[name.split("-")[0]]) for name in ladder.file]
    fit = fits.fit("hoffmann", ladder, bind={"N": "N", "D": f"`{seen}`", "loss": f"`{loss}`"}, bootstrap=500)
    for file, name, size, tokens in (
        ("peteish7_eval_anneal.csv", "7B", 6.888e9, 3.945e12),
        ("peteish13_eval_final.csv", "13B", 1.3202e10, 5.0e12),
    ):
        measured = float(last[last.file == file][loss].iloc[0])
        yield f"{name}: C4 loss", measured, fit.predict(N=size, D=tokens)
