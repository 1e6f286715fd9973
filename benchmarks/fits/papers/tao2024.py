"""The three predictors of the vocabulary by their printed coefficients."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.decisions.optimal_vocabulary import optimal_vocabulary
from fits.tables.files import read_table
from vocab_study.choice.published_predictors import compute_optimal_flops

SOURCE = "Tao et al. (arXiv 2407.13623)"


def rows(data: Path) -> Iterator[Row]:
    predictions = read_table(data / "vocab_tao" / "published_predictions.csv")
    for _, row in predictions[predictions.N_nv.isin([3e9, 7e9, 70e9, 300e9])].iterrows():
        size, width = float(row.N_nv), float(row.d)
        for approach, law, theirs in ((1, "tao-isoflop", row.V_app1), (2, "tao-derivative", row.V_app2)):
            ours = fits.published(law).evaluate(N=size, d=width).value
            yield f"V by approach {approach} at {size:.3g}", theirs, ours
        ours = optimal_vocabulary(fits.published("tao-loss"), size, width, compute_optimal_flops(size))
        yield f"V by approach 3 at {size:.3g}", row.V_app3, ours
