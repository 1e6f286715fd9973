"""How far the runs of Tao et al. determine their predictors (arXiv 2407.13623): vocab_study/choice/tao_draws.csv.

    python benchmarks/vocabulary/tao_intervals.py [FOLDER with exp_data.csv, tokens_per_char.csv, unigram_entropy.csv]

Every predictor is refitted to resamples of whole training curves (approach 2 has two inputs, resampled each by its own
noise). ``scaling vocab choose`` reads its intervals from the table. Draw 0 is the fit to all runs.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fits
from benchmarks.fits.papers.tao2024_refitted import TOKENS, on_the_frontier, refit_loss, stationary_vocabulary
from benchmarks.shared import DATA
from vocab_study.choice.isoflop import bootstrap_laws, fit_law, isoflop_slices
from vocab_study.choice.published_predictors import compute_optimal_flops

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 300
ANCHOR_SIZES, ANCHOR_LOSSES = (4096, 6144, 8192, 10240), (-3.9402, -3.9458, -3.9367, -3.9320)
"""The 33M model at 2.7e17 FLOPs: what approach 2 is anchored on."""
POINTS = ((33e6, 512), (85e6, 768), (151e6, 768), (302e6, 1024), (631e6, 1536), (1130e6, 2048), (2870e6, 3200))

Draw = dict[str, float]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA / "vocab_tao"
    if not folder.is_dir():
        print(f"skipped: the public table is not at {folder}")
        return
    runs = pd.read_csv(folder / "exp_data.csv")
    rows = []
    for name, draws in (
        ("tao-isoflop", approach_1(runs)),
        ("tao-derivative", approach_2(pd.read_csv(folder / "tokens_per_char.csv"), scatter(runs))),
        ("tao-loss", approach_3(runs, 1000)),
        ("tao-loss-corrected", approach_3(runs, 1)),
        ("tao-direct", direct(runs)),
        ("tao-direct-bits", direct(in_bits(runs, folder))),
    ):
        rows += [{"predictor": name, "draw": number} | draw for number, draw in enumerate(draws)]
        print(name, sum(row["predictor"] == name for row in rows), rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(ROOT / "vocab_study" / "tao_draws.csv", index=False, float_format="%.8g")


def curves_of(runs: pd.DataFrame) -> list[pd.DataFrame]:
    return [curve for _, curve in runs.groupby(["Non_vocab_parameters", "vocab_size"])]


def resamples(runs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """All runs first, then whole curves drawn with replacement."""
    generator, curves = np.random.default_rng(0), curves_of(runs)
    yield runs
    for _ in range(DRAWS):
        yield pd.concat([curves[index] for index in generator.integers(len(curves), size=len(curves))])


def approach_1(runs: pd.DataFrame) -> Iterator[Draw]:
    """The lowest loss so far along the FLOPs, then powers of the FLOPs through those points; the runs alone."""
    for drawn in resamples(runs):
        lowest = on_the_frontier(drawn.drop_duplicates())
        settings = {"bind": {"C": "FLOPs"}, "bootstrap": 0, "duplicates": "keep"}
        law = fits.custom_law("exp(K)*C**p", ["C"], domains={"K": "real"})
        matrices = fits.fit(law, lowest, loss="vocab_size*embed_dim", **settings)
        params = fits.fit(law, lowest, loss="Non_vocab_parameters", fix={"p": 0.5}, **settings)
        yield {"K1": params.values["K"], "K2": matrices.values["K"], "p": matrices.values["p"]}


def approach_2(tokens: pd.DataFrame, noise: float) -> Iterator[Draw]:
    """The growth from resampled points of tokens per character, the anchor from its four losses with their noise."""
    generator = np.random.default_rng(0)
    sizes, values = np.log(tokens["vocab_size"].to_numpy()), tokens["tokens_per_char"].to_numpy()
    fitted = np.polyval(np.polyfit(sizes, values, 2), sizes)
    yield {"V0": 3145728.0, "N0": 33e6, "gamma": growth(TOKENS)}
    made = 0
    while made < DRAWS:
        drawn = fitted + generator.choice(values - fitted, size=len(values))
        losses = np.array(ANCHOR_LOSSES) + noise * generator.standard_normal(len(ANCHOR_LOSSES))
        gamma = growth(np.polyfit(sizes, drawn, 2))
        if math.isfinite(gamma):
            made += 1
            yield {"V0": 512.0 * ANCHOR_SIZES[int(losses.argmin())], "N0": 33e6, "gamma": gamma}


def growth(quadratic: Any) -> float:
    """gamma through the sizes at which 6 (N + V d) f(V) is least."""
    best = np.array([stationary_vocabulary(*point, quadratic) * point[1] for point in POINTS])
    x, y = np.log(np.array([params for params, _ in POINTS[1:]]) / POINTS[0][0]), np.log(best[1:] / best[0])
    return float(x @ y / (x @ x))


def approach_3(runs: pd.DataFrame, divisor: float) -> Iterator[Draw]:
    """The loss law, published (divisor 1000) or with tokens per character right (1)."""
    fit = refit_loss(runs, divisor, DRAWS)
    yield fit.values
    for draw in fit.draws:
        yield dict(zip(fit.parameters, draw.tolist(), strict=True))


def as_slices(runs: pd.DataFrame):
    """All models but the smallest, which has no optimum inside its sizes at its budget."""
    names = {"embed_dim": "hidden_size", "Non_vocab_parameters": "params", "FLOPs": "flops", "Lossu": "loss"}
    renamed = runs.rename(columns=names)
    return isoflop_slices(renamed[renamed["params"] > 5e7], compute_optimal_flops)


def direct(runs: pd.DataFrame) -> Iterator[Draw]:
    """A parabola of the loss in ln V for each model at its budget, then a power of N through the optima."""
    slices = as_slices(runs)
    for law in (fit_law(slices), *bootstrap_laws(slices, draws=DRAWS)):
        assert law is not None
        yield {"coefficient": law.coefficient, "gamma": law.gamma}


def scatter(runs: pd.DataFrame) -> float:
    """Noise of one unigram-normalised loss: the smallest scatter about the parabolas."""
    return min(slice.scatter for slice in as_slices(runs))


def in_bits(runs: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The same runs with the loss in bits per character, by the published unigram entropies."""
    entropy = pd.read_csv(folder / "unigram_entropy.csv").set_index("vocab_size")["unigram_entropy_nats"]
    tokens = pd.read_csv(folder / "tokens_per_char.csv").set_index("vocab_size")["tokens_per_char"]
    size = runs["vocab_size"].astype(int)
    return runs.assign(Lossu=size.map(tokens) * (runs["Lossu"] + size.map(entropy)) / math.log(2))


if __name__ == "__main__":
    main()
