"""Published fits redone from the public run tables beside the repository; writes docs/reproductions.md.

Run: python benchmarks/reproductions.py [DATA_FOLDER]
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import griddata, interp1d
from scipy.optimize import brentq

import fits
from fits.allocate import optimal_allocation, surface
from fits.binding import bind_table
from fits.files import write_text
from fits.isoflop import isoflop_frontier
from fits.runs import column_values, filter_rows
from fits.solver.coordinates import Coordinates
from fits.solver.model import bind as bind_model
from fits.solver.objective import make_objective
from fits.solver.problem import Problem
from fits.solver.search import descend
from fits.tables.files import read_table
from fits.vocabulary import optimal_vocabulary

Row = tuple[str, str, float, float]
"""Source, what, published, ours."""

HERE = Path(__file__).resolve().parents[1]
DATA = HERE.parent / "shared" / "data"


def chinchilla() -> Iterator[Row]:
    source = "Besiroglu et al. (arXiv 2404.10102)"
    frame = read_table(DATA / "epoch_chinchilla" / "svg_extracted_data.csv")
    cut = float(np.sort(frame["loss"])[-5])
    bind = {"N": "`Model Size`", "D": "`Training FLOP`/(6*`Model Size`)"}
    kept = filter_rows(frame, f"loss < {cut!r}")
    lad = fits.fit("hoffmann", kept, bind=bind, objective="log-lad", bootstrap=0)
    for name, value in {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}.items():
        yield source, f"printed point (least absolute deviation): {name}", value, lad.values[name]
    yield source, "least absolute deviation, objective", 1.129494664, lad.objective.value
    huber = fits.fit("hoffmann", kept, bind=bind, bootstrap=0)
    yield source, "Huber 1e-3, objective", 1.0182740346e-3, huber.objective.value
    ends = {"A": (285.214, 743.626), "B": (1042.357, 5810.344), "E": (1.769, 1.871)}
    ends |= {"alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    draws = their_resamples(kept, bind, huber)
    for name, (low, high) in ends.items():
        ours = np.percentile(draws[:, list(huber.parameters).index(name)], [2.5, 97.5])
        yield source, f"95 % interval of {name}, low (their 4000 resamples, each solved)", low, float(ours[0])
        yield source, f"95 % interval of {name}, high (their 4000 resamples, each solved)", high, float(ours[1])
    every = fits.fit("hoffmann", frame, bind=bind, bootstrap=0)
    yield source, "Huber 1e-3 on all 245 rows, objective", 1.8260105231e-3, every.objective.value


def their_resamples(frame: pd.DataFrame, bind: dict[str, str], fit: fits.Fit) -> np.ndarray:
    """The coefficients [4000, 5] of the notebook's own resamples (NumPy's legacy generator, seed 42)."""
    law = fits.get_law("hoffmann")
    bound = bind_table(law, frame, bind=bind)
    model = bind_model(law.expression, bound.variables, law.parameter_names, law.parameter_names)
    coordinates = Coordinates(tuple(each.domain for each in law.parameters), model.logarithmic)
    objective = make_objective("log-huber", 1e-3)
    rows = len(bound.loss)
    np.random.seed(42)
    drawn = [np.random.choice(np.arange(rows), size=rows, replace=True) for _ in range(4000)]
    counts = [np.bincount(each, minlength=rows) for each in drawn]
    problem = Problem(model, coordinates, objective, np.log(bound.loss), np.array(counts, dtype=float))
    start = coordinates.solver(np.array(list(fit.values.values())))
    return coordinates.parameters(descend(problem, np.repeat(start[None], 4000, axis=0)).u)


def porian() -> Iterator[Row]:
    frame = read_table(DATA / "porian" / "isoflop_points.csv").dropna(subset=["loss"])
    keys = ["table", "dataset", "hparams", "warmup", "decay", "param_count", "loss_split"]
    published = read_table(DATA / "porian" / "published_fits.csv").set_index(keys)
    for key, group in frame.groupby(keys):
        columns = (group[name].to_numpy(float) for name in ("flops", "n_params", "loss"))
        found = isoflop_frontier(*columns, method="akima", bootstrap=0)
        what = "exponent of N*(C): " + ", ".join(key[1:6])
        yield (
            "Porian et al. (arXiv 2406.19146)",
            what,
            float(published.loc[key]["bs_median_weighted.n_exponent"]),
            (found.exponent.value),
        )


def gadre() -> Iterator[Row]:
    source = "Gadre et al. (arXiv 2403.08540)"
    frame = read_table(DATA / "gadre" / "runs.csv")
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
        yield source, f"{name}: floor E", floor, fit.values["E"]
        yield source, f"{name}: exponent eta", eta, -fit.values["b"] / 2
        if name == "rpj":
            for model, ratio, error in (("open_lm_1b", 640, 0.7103), ("open_lm_7b", 20, 0.7320)):
                row = runs[(runs.model_name == model) & (runs.tok_mult.round() == ratio)].iloc[0]
                predicted = fit.predict(N=float(row.N), D=float(row.D))
                ours = 100 * abs(predicted - row.loss_c4_val) / row.loss_c4_val
                yield source, f"{name}: held-out error at {model}, D/N = {ratio} (%)", error, ours


def gemstones() -> Iterator[Row]:
    table = read_table(DATA / "gemstones" / "published_parameters.csv")
    for file, text in zip(table["file"], table["json"], strict=True):
        folder, _, name = file.partition("/")
        stem = name.removesuffix(".json")
        if not folder.startswith("parameters_delta") or "no_embeds" in name:
            continue
        four = stem.startswith("approach_3_width_depth_parameters_grid_search_0_")
        plain = stem.startswith("approach_3_parameters_grid_search_0_")
        path = DATA / "gemstones" / f"wandb_df_for_fitting_{stem.split('grid_search_0_')[-1]}.jsonl"
        if not path.exists():
            continue
        bind = {"D": "tokens", "loss": "final_loss"}
        if plain or four:
            bind["N"] = "params_active_precise"
        if not plain:
            bind |= {"W": "width", "H": "depth"}
        law = "hoffmann" if plain else "gemstones-shape" if four else "gemstones-width-depth"
        delta = 1e-3 if folder.endswith("-3") else 1e-4
        fit = fits.fit(law, read_table(path), bind=bind, delta=delta, bootstrap=0)
        what = f"objective, {law}, {path.stem.removeprefix('wandb_df_for_fitting_')}, delta {delta:g}"
        yield "McLeish et al., Gemstones (arXiv 2502.06857)", what, json.loads(text)["loss"]["0"], fit.objective.value


def steplaw() -> Iterator[Row]:
    """Optimal rate and batch of each (N, D) from a surface in both logs, then a power law through the cells.

    The loss rises faster above the best rate than below it, so a quadratic puts the rate's optimum elsewhere than a
    quartic; the paper smooths in a way that it does not describe.
    """
    source = "Li et al., Step Law (arXiv 2503.04715)"
    frame = read_table(DATA / "steplaw" / "dense_lr_bs_loss.csv")
    settings = {"objective": "log-least-squares", "bootstrap": 0}
    for degree, within in ((2, 0.05), (4, 0.1)):
        optima = pd.DataFrame([surface_optimum(cell, degree, within) for _, cell in frame.groupby(["N", "D"])])
        rate = fits.fit("learning-rate-size-data", optima, bind={"N": "N", "D": "D"}, **settings)
        batch = fits.fit("batch-data", optima, bind={"D": "D"}, **settings)
        how = f"degree {degree} a cell"
        yield source, f"learning rate, exponent of N ({how})", -0.71224, rate.values["p"]
        yield source, f"learning rate, exponent of D ({how})", 0.30698, rate.values["q"]
        yield source, f"batch, exponent of D ({how})", 0.57131, batch.values["q"]


def surface_optimum(cell: pd.DataFrame, degree: int, within: float) -> dict[str, float]:
    """The lowest point of a polynomial through one cell's runs that are within so many nats of the best."""
    near = cell[cell["smooth loss"] <= cell["smooth loss"].min() + within]
    rate, batch = np.log(near["lr"].to_numpy()), np.log(near["bs"].to_numpy() * 2048)
    x, y = rate - rate.mean(), batch - batch.mean()
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    values = np.stack([x**i * y**j for i, j in powers], axis=1)
    coefficients = np.linalg.lstsq(values, near["smooth loss"].to_numpy(), rcond=None)[0]
    grid = np.meshgrid(np.linspace(x.min(), x.max(), 300), np.linspace(y.min(), y.max(), 300))
    height = sum(each * grid[0] ** i * grid[1] ** j for each, (i, j) in zip(coefficients, powers, strict=True))
    lowest = np.argmin(height)
    return {
        "N": float(near["N"].iloc[0]),
        "D": float(near["D"].iloc[0]),
        "learning_rate": float(np.exp(grid[0].flat[lowest] + rate.mean())),
        "batch_tokens": float(np.exp(grid[1].flat[lowest] + batch.mean())),
    }


def muennighoff() -> Iterator[Row]:
    source = "Muennighoff et al. (arXiv 2305.16264)"
    frame = read_table(DATA / "muennighoff" / "fit_set_182.csv")
    bind = {"N": "params_b*1e9", "D": "tokens_b*1e9", "U": "unique_tokens_b*1e9", "loss": "val_loss"}
    published = fits.published("muennighoff").record.coefficients
    base = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804)}
    base |= {"alpha": published["alpha"], "beta": published["beta"]}
    law = fits.get_law("muennighoff")
    bound = bind_table(law, frame, bind=bind)
    theirs = {**base, "R_D": published["R_D"], "R_N": published["R_N"]}
    residual = np.log(bound.loss) - np.log(law.evaluate(theirs, bound.variables))
    value = float(make_objective("log-huber", 1e-3).penalties(residual).sum())
    yield source, "objective of the printed R_D*, R_N*", 0.015825936570763588, value
    fit = fits.fit(law, frame, bind=bind, fix=base, bootstrap=0)
    yield source, "least objective (the printed point is a local minimum)", 0.015825936570763588, fit.objective.value
    yield source, "R_D* at the least objective", 15.387756, fit.values["R_D"]
    yield source, "R_N* at the least objective", 5.309743, fit.values["R_N"]


def clark() -> Iterator[Row]:
    source = "Clark et al. (arXiv 2202.01169)"
    frame = read_table(DATA / "clark_routing" / "final_step.csv")
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
            yield source, f"{router}: {name} (200-start refit)", value, ours[name]


def tao() -> Iterator[Row]:
    source = "Tao et al. (arXiv 2407.13623)"
    predictions = read_table(DATA / "vocab_tao" / "published_predictions.csv")
    for _, row in predictions[predictions.N_nv.isin([3e9, 7e9, 70e9, 300e9])].iterrows():
        size, width = float(row.N_nv), float(row.d)
        yield (
            source,
            f"V by approach 1 at {size:.3g}",
            row.V_app1,
            fits.published("tao-isoflop").evaluate(N=size, d=width).value,
        )
        yield (
            source,
            f"V by approach 2 at {size:.3g}",
            row.V_app2,
            fits.published("tao-derivative").evaluate(N=size, d=width).value,
        )
        ours = optimal_vocabulary(fits.published("tao-loss"), size, width, compute_optimal(size))
        yield source, f"V by approach 3 at {size:.3g}", row.V_app3, ours


def tao_refits() -> Iterator[Row]:
    """The three approaches fitted again; approach 3 also with tokens per character taken at V instead of V / 1000."""
    source = "Tao et al. (arXiv 2407.13623), refitted"
    frame = read_table(DATA / "vocab_tao" / "exp_data.csv")
    budget = compute_optimal(70e9)
    printed = {"N": (-2.4846510161625193, 0.5), "N_v": (-1.589031299255507, 0.4163622634135234), "H": (1.85958504, 0.5)}
    lowest = on_the_frontier(pd.concat([frame, tao_interpolated(frame)]))
    for name, column in (("N", "Non_vocab_parameters"), ("N_v", "vocab_size*embed_dim"), ("H", "num_characters")):
        law = fits.custom_law("exp(K)*C**p", ["C"], domains={"K": "real"})
        held = {} if name == "N_v" else {"p": 0.5}
        settings = {"bind": {"C": "FLOPs"}, "loss": column, "bootstrap": 0, "duplicates": "keep"}
        fit = fits.fit(law, lowest, fix=held, **settings)
        logs = printed[name][0] + printed[name][1] * np.log(lowest["FLOPs"].to_numpy(float))
        residual = np.log(column_values(lowest, column)) - logs
        there = float(make_objective("log-huber", 1e-3).penalties(residual).sum())
        what = "objective at the printed coefficients; free"
        yield source, f"approach 1, {name}: {what}", there, fit.objective.value
        yield source, f"approach 1, {name}: K", printed[name][0], fit.values["K"]
        if name == "N_v":
            yield source, "approach 1, N_v: exponent", printed[name][1], fit.values["p"]
    plain = fits.fit(law, on_the_frontier(frame), **{**settings, "loss": "vocab_size*embed_dim"})
    ours = plain.predict(C=budget) / 8192
    yield source, "approach 1, runs alone: V at 70B (re-analysis)", 302951, ours

    sizes = np.array([33e6, 85e6, 151e6, 302e6, 631e6, 1130e6, 2870e6])
    widths = np.array([512, 768, 768, 1024, 1536, 2048, 3200])
    best = [stationary_vocabulary(size, width) * width for size, width in zip(sizes, widths, strict=True)]
    table = {"x": sizes[1:] / sizes[0], "y": best[1:] / best[0]}
    slope = fits.fit(fits.custom_law("x**gamma", ["x"]), table, loss="y", bind={"x": "x"}, bootstrap=0)
    yield source, "approach 2: gamma", 0.8353974035228025, slope.values["gamma"]

    for what, divisor, objective, size_70b in (
        ("as published", 1000, 62.2914e-3, 219273),
        ("f(V) right", 1, None, 66401),
    ):
        fit = refit_tao_loss(frame, divisor, bootstrap=400)
        if objective is not None:
            yield (
                source,
                f"approach 3, {what}: objective (the printed coefficients give 62.2917e-3)",
                objective,
                (fit.objective.value),
            )
        if objective is not None:
            exponent = fit.parameters["a2"]
            yield source, "approach 3: a2, 90 % over training curves, low (re-analysis)", 0.02, exponent.low
            yield source, "approach 3: a2, 90 % over training curves, high (re-analysis)", 1.4, exponent.high
        law = fits.published("tao-loss")
        law = replace(law, record=law.record.model_copy(update={"coefficients": fit.values}))
        yield source, f"approach 3, {what}: V at 70B", size_70b, optimal_vocabulary(law, 70e9, 8192, budget)


def refit_tao_loss(frame: pd.DataFrame, divisor: float, bootstrap: int) -> fits.Fit:
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


TOKENS = (0.00639222, -0.15811069, 1.20470122)
"""Tao's tokens per character, a quadratic in ln V (arXiv 2407.13623, section A.3)."""


def tokens_per_character(size: Any) -> Any:
    return np.polyval(TOKENS, np.log(np.minimum(size, 200_000)))


def on_the_frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """The points that have the lowest loss of all with as few FLOPs or fewer."""
    ordered = frame.sort_values("FLOPs", kind="stable").reset_index(drop=True)
    return ordered[ordered["Lossu"] <= ordered["Lossu"].cummin()].reset_index(drop=True)


def tao_interpolated(frame: pd.DataFrame) -> pd.DataFrame:
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


def compute_optimal(params: float) -> float:
    return (params / np.exp(fits.published("tao-isoflop").record.coefficients["K1"])) ** 2


def isoflop_tables() -> Iterator[Row]:
    source = "IsoFLOP tables gathered by Open Athena (arXiv 2603.22339)"
    targets = {
        ("llama_3", "llama_3__exp_loss"): (2.545450e-4, 0.3267, 0.3654),
        ("llama_3", "llama_3__raw_loss"): (3.904679e-4, 0.2835, 0.3157),
        ("ml_scalefit", None): (5.792622e-4, 0.3777, 0.3928),
        ("misfitting", None): (1.729642e-3, 0.6102, 0.7048),
    }
    for (name, experiment), (objective, alpha, beta) in targets.items():
        frame = read_table(DATA / "openathena_isoflops" / f"{name}.csv")
        if experiment is not None:
            frame = frame[frame.experiment == experiment]
        fit = fits.fit("hoffmann", frame, bind={"N": "params", "D": "tokens", "loss": "loss"}, bootstrap=0)
        label = experiment or name
        yield source, f"{label}: objective", objective, fit.objective.value
        yield source, f"{label}: alpha", alpha, fit.values["alpha"]
        yield source, f"{label}: beta", beta, fit.values["beta"]


def olmo() -> Iterator[Row]:
    """Fit the ladder's finished runs (190M to 3B), predict the 7B and the 13B."""
    source = "Bhagia et al., OLMo ladder (arXiv 2412.04403), measured loss against our extrapolation"
    frame = read_table(DATA / "olmo_ladder" / "losses_by_step.csv.gz")
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
        yield source, f"{name}: C4 loss", measured, fit.predict(N=size, D=tokens)


def marin() -> Iterator[Row]:
    source = "Marin grug MoE (released README)"
    frame = read_table(DATA / "marin_moe_v16" / "best_per_budget.csv")
    fitted, held = frame[frame.used_in_published_fit == 1], frame[frame.used_in_published_fit == 0].iloc[0]
    bind = {"C": "flops_budget", "loss": "paloma_macro_loss"}
    settings = {"fix": {"E": 1.6}, "bootstrap": 0, "objective": "log-least-squares"}
    fit = fits.fit("power-law", fitted, bind=bind, **settings)
    yield source, "exponent with the floor pinned at 1.6", 0.0941, fit.values["alpha"]
    yield source, "loss predicted at 1e21", 2.606, fit.predict(C=1e21)
    yield source, "loss measured at 1e21, against our prediction", float(held.paloma_macro_loss), fit.predict(C=1e21)


def flame() -> Iterator[Row]:
    source = "FLAME-MoE (arXiv 2505.20225), 10 of 80 rows"
    frame = read_table(DATA / "flame_moe" / "visible_rows_10_of_80.csv")
    bind = {"N": "active_params", "D": "flops/(6*active_params)", "loss": "val_loss"}
    stuck = fits.published("flame").record.coefficients
    held = {name: value for name, value in stuck.items() if name in ("A", "B")}
    theirs = fits.fit("hoffmann", frame, bind=bind, fix=held, bootstrap=0).objective.value
    ours = fits.fit("hoffmann", frame, bind=bind, bootstrap=0).objective.value
    yield source, "objective with A and B where their optimiser began; free", theirs, ours


def choices() -> Iterator[str]:
    """(Mis)Fitting (arXiv 2502.18969): one table of 261 dense runs, and what each choice does to the exponent."""
    frame = read_table(DATA / "misfitting" / "scaling_results_last_ckpt_only.csv")
    best = frame.loc[frame.groupby(["N", "D"])["loss"].idxmin()].reset_index(drop=True)
    for rows, table in (("every run", frame), ("best rate of each N and D", best)):
        for counted, column in (("all parameters", "N"), ("without embeddings", "N_no_emb")):
            for objective in ("log-huber", "log-least-squares", "log-asymmetric"):
                fit = fits.fit(
                    "hoffmann",
                    table,
                    bind={"N": column, "D": "D", "loss": "loss"},
                    objective=objective,
                    bootstrap=500,
                    duplicates="keep",
                )
                at = optimal_allocation(surface(fit), 1e21)
                exponent = at.size_exponent
                yield (
                    f"| {rows} ({len(table)}) | {counted} | {objective} | {exponent.value:.3f} "
                    f"({exponent.low:.3f} to {exponent.high:.3f}) | {at.size.value:.3g} | {at.tokens.value:.3g} |"
                )


SOURCES: list[Callable[[], Iterator[Row]]] = [
    chinchilla,
    porian,
    gadre,
    gemstones,
    steplaw,
    muennighoff,
    clark,
    tao,
    tao_refits,
    isoflop_tables,
    olmo,
    marin,
    flame,
]

HEADING = """# Reproductions

This page redoes published fits from public run tables (`benchmarks/reproductions.py` writes it). An objective below the
published one means that the published fit had not reached its minimum. Differences are relative.

| source | figure | published | ours | difference |
| --- | --- | ---: | ---: | ---: |
"""


CHOICES = """
## How much unstated choices matter

Here one public table, (Mis)Fitting (arXiv 2502.18969), is fitted under each choice that papers make without saying so.
The table shows the exponent of N*(C) with its 95 % interval, and the advice at 1e21 FLOPs.

| runs | N counts | objective | exponent of N*(C) | N* | D* |
| --- | --- | --- | --- | ---: | ---: |
"""


def main() -> None:
    global DATA
    if len(sys.argv) > 1:
        DATA = Path(sys.argv[1])
    if not DATA.is_dir():
        print(f"skipped: the public run tables are not at {DATA}")
        return
    lines = []
    for source in SOURCES:
        for name, what, published, ours in source():
            difference = (ours - published) / abs(published)
            lines.append(f"| {name} | {what} | {published:.8g} | {ours:.8g} | {difference:+.2%} |")
            print(lines[-1], flush=True)
    sensitivity = []
    for line in choices():
        sensitivity.append(line)
        print(line, flush=True)
    text = HEADING + "\n".join(lines) + "\n" + CHOICES + "\n".join(sensitivity) + "\n"
    write_text(HERE / "docs" / "reproductions.md", text)


if __name__ == "__main__":
    main()
