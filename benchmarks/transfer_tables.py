"""What the transfer study's runs say: tables in Markdown and one picture."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from transfer_runs import BEST, GATES, GRID_WIDTHS, HORIZONS, MUON_RATES, SEEDS, STEPS, VARIANTS

from fits.fitting import fit
from trainer_small.config import RunConfig
from trainer_small.result import read_result


def read_table(out: Path) -> pd.DataFrame:
    """One row a finished run; ``loss`` in nats a byte, ``rate`` as log2."""
    rows = []
    for path in sorted(out.glob("*/config.yaml")):
        config, result = RunConfig.load(path), read_result(path.parent)
        if result is None or result.status not in ("done", "diverged"):
            continue
        architecture, training = config.architecture, config.training
        rows.append(
            {
                "variant": config.purpose,
                "parametrization": training.parametrization,
                "hidden_size": architecture.hidden_size,
                "num_layers": architecture.num_layers,
                "num_experts": architecture.num_experts,
                "pieces": architecture.num_shared_experts,
                "rate": math.log2(training.learning_rate),
                "steps": training.steps,
                "seed": config.seed,
                "params_active_non_embedding": architecture.params_active_non_embedding,
                "tokens": training.tokens_trained,
                "loss": result.losses.loss if result.losses else math.nan,
                "max_violation": result.router.max_violation if result.router else math.nan,
                "dead_experts": result.router.dead_experts if result.router else 0,
                "seconds": result.speed.wall_seconds if result.speed else 0.0,
                "device": result.machine.device if result.machine else "",
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Every run at its own place, whatever else varies: ``## title`` and a table for each question."""
    parts = [
        ("One rate for every width and number of experts", rates(table)),
        ("What helps, and whether more experts help", variants(table)),
        ("More experts at each width", widths(table)),
        ("Four times the steps, with Muon, at width 128", longer(table)),
        ("Granularity at the same active width and activation ratio", granularity(table)),
        ("Granularity in longer runs, with Muon", longer_granularity(table)),
        ("Muon", muon(table)),
        ("Muon in longer runs", longer_muon(table)),
        ("Depth", depth(table)),
        ("Token horizon", horizon(table)),
        ("A law on three sizes and four horizons", grid(table)),
    ]
    seconds = table["seconds"].sum()
    head = f"{len(table)} runs, {seconds / 3600:.2f} core-hours of training on one core of {table['device'].iloc[0]}."
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in parts if text)])


def rates(table: pd.DataFrame) -> str:
    base = _base(table, steps=STEPS, num_layers=4, pieces=1, seed=0)
    found = sorted(base["rate"].unique())
    rows = []
    for (kind, hidden, experts), group in base.groupby(["parametrization", "hidden_size", "num_experts"]):
        losses = group.set_index("rate")["loss"]
        if len(losses) > 2:
            cells = [
                "" if rate not in losses else _bold(f"{losses[rate]:.3f}", losses[rate] == losses.min())
                for rate in found
            ]
            rows.append([kind, hidden, experts, *cells])
    return _lines(["parametrization", "width", "experts", *(f"2^{rate:g}" for rate in found)], rows)


def variants(table: pd.DataFrame) -> str:
    rows = []
    for hidden in (64, 128):
        for variant in (*VARIANTS, f"muon 2^{MUON_RATES[0]}"):
            losses = _seeds(table, hidden, variant)
            if losses.empty:
                continue
            cells = [_mean(losses[8]), _mean(losses[32]), _mean(losses[32] - losses[8], signed=True)]
            rows.append([hidden, variant, *cells, len(losses)])
    return _lines(["width", "variant", "8 experts", "32 experts", "32 minus 8", "seeds"], rows)


def widths(table: pd.DataFrame) -> str:
    """At each width the best rate of each number of experts, one seed; and the difference at the common rate."""
    base = _base(table, steps=STEPS, num_layers=4, pieces=1, seed=0)
    rows = []
    for hidden, group in base[base["parametrization"] == "mup"].groupby("hidden_size"):
        best = group.groupby("num_experts")["loss"].min()
        if {8, 32} <= set(best.index):
            rows.append([hidden, f"{best[8]:.3f}", f"{best[32]:.3f}", f"{best[32] - best[8]:+.3f}"])
    return _lines(["width", "8 experts at its best rate", "32 at its best rate", "32 minus 8"], rows)


def longer(table: pd.DataFrame) -> str:
    chosen = _where(table, hidden_size=128, variant=f"muon 2^{MUON_RATES[0]}")
    rows = []
    for steps, group in chosen.groupby("steps"):
        losses = group.pivot_table(index="seed", columns="num_experts", values="loss").reindex(columns=[8, 32]).dropna()
        cells = [_mean(losses[8]), _mean(losses[32]), _mean(losses[32] - losses[8], signed=True)]
        rows.append([steps, *cells, len(losses)])
    return _lines(["steps", "8 experts", "32 experts", "32 minus 8", "seeds"], rows) if len(rows) > 1 else ""


def granularity(table: pd.DataFrame) -> str:
    """Losses by the number of pieces of an expert, and what they are less than one piece by the rule, same seeds."""
    table = _where(table, hidden_size=64, rate=BEST, steps=STEPS, num_layers=4, parametrization="mup")
    table = table[table["num_experts"] == 8 * table["pieces"]]
    losses = table.pivot_table(index="seed", columns=["variant", "pieces"], values="loss")
    rows = []
    for optimizer, prefix in (("AdamW", ""), ("Muon", f"muon 2^{MUON_RATES[0]}")):
        base = losses.get((prefix or "rule", 1))
        for gates in GATES:
            name = f"{prefix} {gates}".strip() if gates != "rule" else prefix or "rule"
            for pieces in (1, 2, 4):
                if base is not None and (name, pieces) in losses:
                    both = pd.DataFrame({"loss": losses[name, pieces], "base": base}).dropna()
                    less = "" if (gates, pieces) == ("rule", 1) else _mean(both["loss"] - both["base"], signed=True)
                    rows.append(
                        [optimizer, GATES[gates][1], 2 * pieces, 8 * pieces, _mean(both["loss"]), less, len(both)]
                    )
    columns = ["optimizer", "gates sum to", "granularity", "experts", "loss", "minus the first", "seeds"]
    return _lines(columns, rows) if rows else ""


def longer_granularity(table: pd.DataFrame) -> str:
    chosen = _where(table, hidden_size=64, variant=f"muon 2^{MUON_RATES[0]}")
    chosen = chosen[chosen["num_experts"] == 8 * chosen["pieces"]]
    rows = []
    for steps, group in chosen.groupby("steps"):
        losses = group.pivot_table(index="seed", columns="pieces", values="loss").reindex(columns=[1, 2, 4]).dropna()
        less = [_mean(losses[pieces] - losses[1], signed=True) for pieces in (2, 4)]
        rows.append([steps, *(_mean(losses[pieces]) for pieces in losses), *less, len(losses)])
    columns = ["steps", "granularity 2", "granularity 4", "granularity 8", "4 minus 2", "8 minus 2", "seeds"]
    return _lines(columns, rows) if len(rows) > 1 else ""


def muon(table: pd.DataFrame) -> str:
    names = [f"muon 2^{rate}" for rate in sorted(MUON_RATES)]
    whole = table[(table["seed"] == 0) & (table["pieces"] == 1) & (table["steps"] == STEPS)]
    losses = whole.pivot_table(index=["hidden_size", "num_experts"], columns="variant", values="loss")
    losses = losses.reindex(columns=names).dropna()
    adamw = _base(table, rate=BEST, steps=STEPS, num_layers=4, pieces=1, seed=0, parametrization="mup")
    rows = [
        [
            *shape,
            *(_bold(f"{value:.3f}", value == row.min()) for value in row),
            f"{adamw[(adamw['hidden_size'] == shape[0]) & (adamw['num_experts'] == shape[1])]['loss'].mean():.3f}",
        ]
        for shape, row in losses.iterrows()
    ]
    columns = ["width", "experts", *(name.removeprefix("muon ") for name in names), "AdamW"]
    return _lines(columns, rows) if rows else ""


def longer_muon(table: pd.DataFrame) -> str:
    """Muon beside AdamW, 64 wide with 8 experts, at every length that both have."""
    table = _where(table, hidden_size=64, num_experts=8, num_layers=4, pieces=1, rate=BEST, parametrization="mup")
    names = {"rule": "AdamW", f"muon 2^{MUON_RATES[0]}": "Muon"}
    losses = table.pivot_table(index=["steps", "seed"], columns="variant", values="loss")
    losses = losses.reindex(columns=list(names)).dropna(axis=1, how="all")
    rows = []
    for steps, group in losses.groupby("steps"):
        cells = [_mean(group[name].dropna()) for name in names if name in group and group[name].notna().any()]
        if len(cells) == len(names):
            gain = group[list(names)[1]].mean() - group["rule"].mean()
            rows.append([steps, *cells, f"{gain:+.3f}", " and ".join(str(group[name].count()) for name in names)])
    return _lines(["steps", *names.values(), "Muon minus AdamW", "seeds"], rows) if len(rows) > 1 else ""


def depth(table: pd.DataFrame) -> str:
    base = _base(table, steps=STEPS, hidden_size=64, num_experts=8, pieces=1, seed=0, parametrization="mup")
    return _by_rate(base, "num_layers", "layers")


def horizon(table: pd.DataFrame) -> str:
    base = _base(
        table, hidden_size=GRID_WIDTHS[0], num_layers=4, num_experts=8, pieces=1, seed=0, parametrization="mup"
    )
    return _by_rate(base[base["steps"].isin(HORIZONS)], "steps", "steps")


def grid(table: pd.DataFrame) -> str:
    base = _base(table, num_layers=4, num_experts=8, pieces=1, rate=BEST, parametrization="mup")
    base = base[base["steps"].isin(HORIZONS) & base["hidden_size"].isin(GRID_WIDTHS)]
    first = base[base["seed"] == 0]
    if len(first) < 12:
        return ""
    losses = first.pivot_table(index="hidden_size", columns="steps", values="loss")
    rows = [
        [hidden, *(f"{value:.3f}" for value in row)] for hidden, row in zip(losses.index, losses.values, strict=True)
    ]
    text = _lines(["width", *(f"{steps} steps" for steps in losses.columns)], rows)
    columns = {"N": first["params_active_non_embedding"], "D": first["tokens"], "loss": first["loss"]}
    law = fit("hoffmann", pd.DataFrame(columns), loss="loss", bootstrap=0)
    predicted = np.asarray(law.predict(N=columns["N"].to_numpy(float), D=columns["D"].to_numpy(float)))
    residual = first["loss"].to_numpy() - predicted
    noise = base[base["hidden_size"] == GRID_WIDTHS[0]].groupby("steps")["loss"].std(ddof=1)
    spread = math.sqrt(float((residual**2).sum()) / (len(first) - 5))
    return (
        f"{text}\n\nResiduals of the fitted law (12 runs, 5 coefficients): {spread:.4f} nats a byte, the largest "
        f"{np.abs(residual).max():.4f}. Standard deviation over {len(SEEDS)} seeds at width {GRID_WIDTHS[0]}: "
        + ", ".join(f"{value:.4f} ({steps} steps)" for steps, value in noise.items())
        + f"; together {math.sqrt(float((noise**2).mean())):.4f}."
    )


def picture(table: pd.DataFrame, path: Path) -> None:
    """Left: loss against the rate for every width and number of experts. Right: what 32 experts gain over 8."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    base = _base(table, steps=STEPS, num_layers=4, pieces=1, seed=0)
    colors = {64: "tab:blue", 128: "tab:orange"}
    for (kind, hidden, experts), group in base.groupby(["parametrization", "hidden_size", "num_experts"]):
        group = group.sort_values("rate")
        if len(group) > 2:
            left.plot(
                group["rate"],
                group["loss"],
                marker="o" if experts == 8 else "s",
                linestyle="-" if kind == "mup" else ":",
                color=colors[hidden],
                alpha=0.55 if experts == 8 else 1.0,
                label=f"{kind}, {hidden} wide, {experts} experts",
            )
    left.set_xlabel("log2 of the learning rate")
    left.set_ylabel("validation loss, nats a byte")
    left.legend(fontsize=7)
    names, means, errors = [], [], []
    for hidden in (64, 128):
        for variant in (*VARIANTS, f"muon 2^{MUON_RATES[0]}"):
            losses = _seeds(table, hidden, variant)
            if not losses.empty:
                gain = losses[32] - losses[8]
                names.append(f"{variant}, {hidden} wide")
                means.append(gain.mean())
                errors.append(gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan)
    place = np.arange(len(names))[::-1]
    right.errorbar(means, place, xerr=np.nan_to_num(errors), fmt="o", capsize=3)
    right.axvline(0, color="grey", linewidth=0.8)
    right.set_yticks(place, names, fontsize=7)
    right.set_xlabel("loss with 32 experts less that with 8, nats a byte")
    figure.savefig(path)
    plt.close(figure)


def _seeds(table: pd.DataFrame, hidden: int, variant: str) -> pd.DataFrame:
    """Losses with 8 and with 32 experts by seed, at the common rate; only seeds that have both."""
    fixed = {"rate": BEST, "steps": STEPS, "num_layers": 4, "pieces": 1, "parametrization": "mup"}
    chosen = _where(table, variant=variant, hidden_size=hidden, **fixed)
    losses = chosen.pivot_table(index="seed", columns="num_experts", values="loss")
    return losses.reindex(columns=[8, 32]).dropna()


def _base(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Runs of the rule itself with these values."""
    return _where(table, variant="rule", **wanted)


def _where(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for key, value in wanted.items():
        table = table[table[key] == value]
    return table


def _by_rate(table: pd.DataFrame, column: str, word: str) -> str:
    losses = table.pivot_table(index=column, columns="rate", values="loss")
    losses = losses[losses.notna().sum(axis=1) > 2]
    rows = [
        [index, *("" if math.isnan(value) else _bold(f"{value:.3f}", value == row.min()) for value in row)]
        for index, row in losses.iterrows()
    ]
    return _lines([word, *(f"2^{rate:g}" for rate in losses.columns)], rows) if rows else ""


def _mean(values: pd.Series, *, signed: bool = False) -> str:
    """Mean and standard error over seeds."""
    mean = f"{values.mean():+.3f}" if signed else f"{values.mean():.3f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1) / math.sqrt(len(values)):.3f}"


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def _lines(columns: Iterable[object], rows: list[list[object]]) -> str:
    names = list(columns)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
