"""The three predictors of the vocabulary, fitted again to the released runs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import griddata, interp1d
from scipy.optimize import brentq

import fits
from benchmarks.fits.papers import Row
from fits.decisions.optimal_vocabulary import optimal_vocabulary
from fits.solver.objective import make_objective
from fits.tables.files import read_table
from fits.tables.runs import column_values
from vocab_study.choice.published_predictors import compute_optimal_flops

SOURCE = "Tao et al. (arXiv 2407.13623), refitted"
TOKENS = (0.00639222, -0.15811069, 1.20470122)
"""Tao's tokens per character, a quadratic in ln V (arXiv 2407.13623, section A.3)."""


def rows(data: Path) -> Iterator[Row]:
    """The three approaches fitted again; approach 3 also with tokens per character taken at V instead of V / 1000."""
    frame = read_table(data / "vocab_tao" / "exp_data.csv")
    budget = compute_optimal_flops(70e9)
    printed = {"N": (-2.4846510161625193, 0.5), "N_v": (-1.589031299255507, 0.4163622634135234), "H": (1.85958504, 0.5)}
    lowest = on_the_frontier(pd.concat([frame, interpolated(frame)]))
    for name, column in (("N", "Non_vocab_parameters"), ("N_v", "vocab_size*embed_dim"), ("H", "num_characters")):
        law = fits.custom_law("exp(K)*C**p", ["C"], domains={"K": "real"})
        held = {} if name == "N_v" else {"p": 0.5}
        settings = {"bind": {"C": "FLOPs"}, "loss": column, "bootstrap": 0, "duplicates": "keep"}
        fit = fits.fit(law, lowest, fix=held, **settings)
        logs = printed[name][0] + printed[name][1] * np.log(lowest["FLOPs"].to_numpy(float))
        residual = np.log(column_values(lowest, column)) - logs
        there = float(make_objective("log-huber", 1e-3).penalties(residual).sum())
        what = "objective at the printed coefficients; free"
        yield f"approach 1, {name}: {what}", there, fit.objective.value
        yield f"approach 1, {name}: K", printed[name][0], fit.values["K"]
        if name == "N_v":
            yield "approach 1, N_v: exponent", printed[name][1], fit.values["p"]
    plain = fits.fit(law, on_the_frontier(frame), **{**settings, "loss": "vocab_size*embed_dim"})
    ours = plain.predict(C=budget) / 8192
    yield "approach 1, runs alone: V at 70B (re-analysis)", 302951, ours

    sizes = np.array([33e6, 85e6, 151e6, 302e6, 631e6, 1130e6, 2870e6])
    widths = np.array([512, 768, 768, 1024, 1536, 2048, 3200])
    best = [stationary_vocabulary(size, width) * width for size, width in zip(sizes, widths, strict=True)]
    table = {"x": sizes[1:] / sizes[0], "y": best[1:] / best[0]}
    slope = fits.fit(fits.custom_law("x**gamma", ["x"]), table, loss="y", bind={"x": "x"}, bootstrap=0)
    yield "approach 2: gamma", 0.8353974035228025, slope.values["gamma"]

    for what, divisor, objective, size_70b in (
        ("as published", 1000, 62.2914e-3, 219273),
        ("f(V) right", 1, None, 66401),
    ):
        fit = refit_loss(frame, divisor, bootstrap=400)
        if objective is not None:
            said = "objective (the printed coefficients give 62.2917e-3)"
            yield f"approach 3, {what}: {said}", objective, fit.objective.value
            exponent = fit.parameters["a2"]
            yield "approach 3: a2, 90 % over training curves, low (re-analysis)", 0.02, exponent.low
            yield "approach 3: a2, 90 % over training curves, high (re-analysis)", 1.4, exponent.high
        law = fits.published("tao-loss")
        law = replace(law, record=law.record.model_copy(update={"coefficients": fit.values}))
        yield f"approach 3, {what}: V at 70B", size_70b, optimal_vocabulary(law, 70e9, 8192, budget)


def refit_loss(frame: pd.DataFrame, divisor: float, bootstrap: int) -> fits.Fit:
    """Approach 3, resampling whole training curves; divisor 1000 takes tokens per character at V/1000, as published."""
    large = frame[frame["FLOPs"] >= 2.18e17].reset_index(drop=True)
    return fits.fit(
        "tao-loss",
        large.assign(tokens=large["num_characters"] * tokens_per_character(large["vocab_size"] / divisor) / 1e9),
        loss="Lossu",
        bind={"N": "Non_vocab_parameters/1e6", "V": "vocab_size/1e3", "d": "embed_dim/1e3", "D": "tokens"},
        objective="huber",
        tie={"a1": "b"},
        cluster=(large["vocab_size"].astype(str) + large["Non_vocab_parameters"].astype(str)).to_numpy(),
        bootstrap=bootstrap,
        level=0.9,
    )


def tokens_per_character(size: Any) -> Any:
    return np.polyval(TOKENS, np.log(np.minimum(size, 200_000)))


def on_the_frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """The points that have the lowest loss of all with as few FLOPs or fewer."""
    ordered = frame.sort_values("FLOPs", kind="stable").reset_index(drop=True)
    return ordered[ordered["Lossu"] <= ordered["Lossu"].cummin()].reset_index(drop=True)


def interpolated(frame: pd.DataFrame) -> pd.DataFrame:
    """The points that approach 1 adds between the runs: along N and H together, and along V at the end of training."""
    sizes, lengths = (np.sort(frame[name].unique()) for name in ("Non_vocab_parameters", "num_characters"))
    vocabularies = np.sort(frame["vocab_size"].unique())
    added = []
    path = np.stack([np.geomspace(each[0], each[-1], 50) for each in (sizes, lengths)], axis=1)
    for size in vocabularies:
        runs = frame[frame["vocab_size"] == size]
        loss = griddata(runs[["Non_vocab_parameters", "num_characters"]], runs["Lossu"], path, method="cubic")
        added += [(size, *at, each) for at, each in zip(path, loss, strict=True) if np.isfinite(each)]
    fine = np.geomspace(vocabularies[0], vocabularies[-1], 20)
    for params, tokens in zip(sizes, (1.2e9, 3.0e9, 5.3e9, 11.7e9, 27.7e9, 54.8e9), strict=True):
        last = frame[frame["Non_vocab_parameters"] == params].groupby("vocab_size", sort=True)["Lossu"].last()
        curve = interp1d(last.index, last.to_numpy(), kind="quadratic", fill_value="extrapolate")  # type: ignore[arg-type]
        added += [(size, params, tokens / tokens_per_character(size), float(curve(size))) for size in fine]
    table = pd.DataFrame(added, columns=["vocab_size", "Non_vocab_parameters", "num_characters", "Lossu"])
    steps = np.searchsorted([5e7, 2e8, 5e8, 1e9, 2e9], table["Non_vocab_parameters"])
    table["embed_dim"] = np.array([512, 768, 1024, 1536, 2048, 3200])[steps]
    params = table["Non_vocab_parameters"] + table["vocab_size"] * table["embed_dim"]
    table["FLOPs"] = 6 * params * table["num_characters"] * tokens_per_character(table["vocab_size"])
    return table


def stationary_vocabulary(params: float, width: float, quadratic: Any = TOKENS) -> float:
    """Where 6 (N + V d) f(V), the FLOPs of a character, is least before f turns upwards; NaN where it is not."""

    def slope(log_v: float) -> float:
        rise = np.polyval(np.polyder(quadratic), log_v)
        return width * np.exp(log_v) * np.polyval(quadratic, log_v) + (params + width * np.exp(log_v)) * rise

    low, turn = np.log(500), -quadratic[1] / (2 * quadratic[0])
    return float(np.exp(brentq(slope, low, turn, xtol=1e-13))) if slope(low) < 0 < slope(turn) else float("nan")
