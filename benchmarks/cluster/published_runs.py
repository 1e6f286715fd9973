"""How far the memory and time model is from what was published: predicted beside published, with the ratio.

    python benchmarks/cluster/published_runs.py [--markdown] [--assumptions FILE]

Runs, layouts and sources are in ``published_runs.yaml``. Nothing runs on a GPU: this is arithmetic, a second or two.
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.markdown import table
from scaling.cluster.hardware import gpu as find_gpu
from scaling.cluster.layout.assumptions import Assumptions, usual_assumptions
from scaling.cluster.layout.estimate import taken
from scaling.cluster.layout.memory import GIB
from scaling.cluster.layout.search import search_layouts
from scaling.cluster.run import Run
from scaling.plan import Layout
from trainer_small.architecture import Architecture

FILE = Path(__file__).with_name("published_runs.yaml")


def published() -> dict[str, Any]:
    """Models, runs and memory readings; the models as architectures."""
    data = yaml.safe_load(FILE.read_text())
    data["models"] = {name: Architecture.model_validate(sizes) for name, sizes in data["models"].items()}
    return data


def run_of(entry: dict[str, Any], model: Architecture) -> Run:
    """What the time model needs of an entry; the rest of a run is of no account."""
    return Run(
        model=model, sequence_length=entry["sequence_length"], batch_size=entry["batch"], steps=1, warmup_steps=0,
        decay_steps=1, schedule="wsd", learning_rate=1e-4, min_learning_rate=0.0, beta1=0.9, beta2=0.95, epsilon=1e-8,
        weight_decay=0.1, grad_clip=1.0, init_std=0.006, precision=entry["precision"], layout=None,
    )  # fmt: skip


def speeds(entry: dict[str, Any], model: Architecture, assumptions: Assumptions) -> tuple[float, float]:
    """Published and predicted TFLOP/s of one GPU, by this toolkit's count of the model's FLOPs."""
    run = run_of(entry, model)
    assumed = _assumed(entry, assumptions)
    layout = Layout(gpus=entry["gpus"], **entry["layout"])
    per_token = model.flops_per_token(run.sequence_length)
    if "best_with" in entry:
        table: Any = search_layouts(run, entry["gpus"], entry["gpu"], assumptions=assumed).feasible
        for name in entry["best_with"]:
            table = table[table[name] == getattr(layout, name)]
        predicted = float(table["tflops_per_gpu"].iloc[0])
    else:
        _, time = taken(run, layout, find_gpu(entry["gpu"]), assumed)
        predicted = per_token * run.batch_size * run.sequence_length / time.total.item() / entry["gpus"] / 1e12
    if "tokens" in entry:
        return entry["tokens"] * per_token / 1e12, predicted
    if "seconds" in entry:
        tokens = run.batch_size * run.sequence_length / entry["seconds"] / entry["gpus"]
        return tokens * per_token / 1e12, predicted
    return float(entry["tflops"]), predicted


def memories(entry: dict[str, Any], model: Architecture, assumptions: Assumptions) -> tuple[float, float]:
    """Published and predicted GiB of the fullest GPU."""
    layout = Layout(gpus=entry["gpus"], **entry["layout"])
    memory, _ = taken(run_of(entry, model), layout, find_gpu("h100"), _assumed(entry, assumptions))
    seen = entry["gib"] if "gib" in entry else entry["gb"] * 1e9 / GIB
    return seen, memory.total.item() / GIB


def _assumed(entry: dict[str, Any], assumptions: Assumptions) -> Assumptions:
    """With what the source says of its run that is not the usual."""
    return assumptions.model_copy(update=entry.get("assumptions", {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assumptions", type=Path)
    parser.add_argument("--markdown", action="store_true", help="tables for docs/layout.md")
    given = parser.parse_args()
    assumptions = Assumptions.load(given.assumptions) if given.assumptions else usual_assumptions()
    data = published()
    rows = []
    for entry in data["runs"]:
        seen, predicted = speeds(entry, data["models"][entry["model"]], assumptions)
        rows.append([entry["name"], entry["use"], f"{seen:.0f}", f"{predicted:.0f}", f"{predicted / seen:.2f}"])
    _print("TFLOP/s per GPU", ["run", "use", "published", "predicted", "ratio"], rows, given.markdown)
    for use in ("calibrated", "held out"):
        ratios = sorted(float(row[4]) for row in rows if row[1] == use)
        within = sum(0.75 <= ratio <= 1.25 for ratio in ratios)
        print(f"{use}: {len(ratios)} runs, ratios {ratios[0]:.2f} to {ratios[-1]:.2f}, median {median(ratios):.2f}, "
              f"{within} within 25 %")  # fmt: skip
    print()
    rows = []
    for entry in data["memory"]:
        seen, predicted = memories(entry, data["models"][entry["model"]], assumptions)
        rows.append([entry["name"], f"{seen:.1f}", f"{predicted:.1f}", f"{predicted / seen:.2f}"])
    _print("GiB on the fullest GPU", ["run", "published", "predicted", "ratio"], rows, given.markdown)


def _print(title: str, columns: list[str], rows: list[list[str]], markdown: bool) -> None:
    if markdown:
        print(f"**{title}**\n\n{table(columns, rows)}\n")
        return
    print(title)
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


if __name__ == "__main__":
    main()
