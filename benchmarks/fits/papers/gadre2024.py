"""Three validation sets, fitted to five small runs, and the error at two large ones."""

from collections.abc import Iterator
from pathlib import Path

import fits
from benchmarks.fits.papers import Row
from fits.tables.files import read_table

SOURCE = "Gadre et al. (arXiv 2403.08540)"


def rows(data: Path) -> Iterator[Row]:
    frame = read_table(data / "gadre" / "runs.csv")
    targets = {
        "c4_original": (1.50826, 0.1212),
        "rpj": (1.83665, 0.1364),
        "rw_original": (1.73446, 0.1272),
    }
    fitted_on = [("d=96_l=8_h=4", 20), ("d=512_l=8_h=4", 20), ("d=576_l=24_h=8", 20), ("d=1024_l=24_h=8", 20)]
    fitted_on.append(("d=96_l=8_h=4", 320))
    for name, (floor, eta) in targets.items():
        runs = frame[frame.dataset_name == name]
        pairs = list(zip(runs.model_name, runs.tok_mult.round().astype(int), strict=True))
        few = runs[[pair in fitted_on for pair in pairs]]
        bind = {"N": "N", "D": "D", "loss": "loss_c4_val"}
        fit = fits.fit("gadre", few, bind=bind, objective="least-squares", bootstrap=0)
        yield f"{name}: floor E", floor, fit.values["E"]
        yield f"{name}: exponent eta", eta, -fit.values["b"] / 2
        if name == "rpj":
            for model, ratio, error in (("open_lm_1b", 640, 0.7103), ("open_lm_7b", 20, 0.7320)):
                row = runs[(runs.model_name == model) & (runs.tok_mult.round() == ratio)].iloc[0]
                predicted = fit.predict(N=float(row.N), D=float(row.D))
                ours = 100 * abs(predicted - row.loss_c4_val) / row.loss_c4_val
                yield f"{name}: held-out error at {model}, D/N = {ratio} (%)", error, ours
