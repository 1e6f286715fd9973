"""The exponent of N*(C) under every setting of training."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.fits.papers import Row
from fits.decisions.isoflop import isoflop_frontier
from fits.tables.files import read_table

SOURCE = "Porian et al. (arXiv 2406.19146)"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "porian" / "isoflop_points.csv").dropna(subset=["loss"])
    keys = ["table", "dataset", "hparams", "warmup", "decay", "param_count", "loss_split"]
    published = read_table(data / "porian" / "published_fits.csv").set_index(keys)
    for key, group in frame.groupby(keys):
        columns = (group[name].to_numpy(float) for name in ("flops", "n_params", "loss"))
        found = isoflop_frontier(*columns, method="akima", bootstrap=0)
        what = "exponent of N*(C): " + ", ".join(key[1:6])
        yield what, float(published.loc[key]["bs_median_weighted.n_exponent"]), found.exponent.value
