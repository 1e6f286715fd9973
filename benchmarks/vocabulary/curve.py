"""Loss against the vocabulary size, measured: 6 sizes x 2 models x 2 seeds on text in six languages.

    python benchmarks/vocabulary/curve.py [--corpora FOLDER] [--out FOLDER] [--workers N] [--budget-flops F]

FOLDER holds a folder of text for each language (and parallel/parallel.jsonl.gz, aligned records). Writes
docs/vocabulary_curve.md with its pictures and docs/data/vocabulary_runs.csv. About an hour on one core, and the same
command carries on where it was stopped.
"""

import argparse
import platform
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.shared import CORPORA, LANGUAGES
from fits.tables.runs import write_runs
from trainer_small.engines.sweep_run import run_sweep
from trainer_small.machine.numerics import processor_name
from trainer_small.sweeps.sweep_status import sweep_table
from vocab_study.choice.choice import VocabularyChoice, choose_vocabulary
from vocab_study.choice.figures import compression_figure, loss_figure, predictors_figure
from vocab_study.choice.isoflop import ModelOptimum, common_budget, isoflop_slices, model_optima, read_vocabulary_runs
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary
from vocab_study.study.study import Study
from vocab_study.study.sweep_design import design_vocabulary_sweep

ROOT = Path(__file__).resolve().parents[2]
SIZES = (512, 1024, 2048, 4096, 8192, 16_384)
AXK1 = {"params": 30.65e9, "hidden_size": 7168, "built": 163_840}
"""A.X K1 (arXiv 2601.09200): 33B active less both vocabulary matrices."""
LARGEST = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, default=ROOT / "vocab_curve_out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget-flops", type=float, default=9e13)
    options = parser.parse_args()
    if not options.corpora.is_dir():
        print(f"skipped: there is no text at {options.corpora}")
        return
    out = options.out
    build_corpus([options.corpora / name for name in LANGUAGES], out / "corpus")
    aligned = options.corpora / "parallel" / "parallel.jsonl.gz"
    study = study_vocabulary(
        out / "corpus", out / "study", max_size=LARGEST, sizes=SIZES, parallel=aligned if aligned.is_file() else None
    )
    design_vocabulary_sweep(
        corpus="corpus",
        tokenizers={size: f"study/tokenizers/{size}/tokenizer.json" for size in SIZES},
        budget_flops=options.budget_flops,
    ).save(out / "sweep.yaml")
    if run_sweep(out / "sweep.yaml", out / "runs", workers=options.workers).interrupted:
        raise SystemExit("stopped; the same command carries on")
    table = sweep_table(out / "runs")
    (ROOT / "docs" / "data").mkdir(exist_ok=True)
    write_runs(table, ROOT / "docs" / "data" / "vocabulary_runs.csv")
    report(study, table)


def report(study: Study, table: pd.DataFrame) -> None:
    images = ROOT / "docs" / "images"
    runs_file = ROOT / "docs" / "data" / "vocabulary_runs.csv"
    lines = ["# Loss against the vocabulary size, measured", ""]
    lines += [
        "Made by `benchmarks/vocabulary/curve.py`; the runs are in [vocabulary_runs.csv](data/vocabulary_runs.csv). "
        f"They were trained on one {processor_name()} ({platform.system()}) in "
        f"{table['wall_seconds'].sum() / 60:.0f} minutes of training.",
        "",
        "At every vocabulary size, each model was trained on the six languages of the corpus for the same FLOPs, with "
        "two seeds. The loss is bits per byte of the same held-out text.",
        "",
        "![Bits per byte against the vocabulary size for two models](images/vocabulary_loss.svg)",
        "",
        "## Bits per byte: mean of two seeds ± half their difference",
        "",
    ]
    lines += losses(table)
    lines += ["", "## The best size depends on the loss that you compare", ""]
    lines += [
        "The best size is the minimum of a parabola in ln V through the sizes near it. Sizes are dropped, the furthest "
        "first, while the parabola does not fit within the noise of seeds (F test for lack of fit, 5 %). The picture "
        "shows the sizes that stayed.",
        "",
    ]
    lines += ["| model (outside the vocabulary) | loss | best size | 90 % interval |", "| --- | --- | ---: | --- |"]
    for metric in ("bits-per-byte", "unigram-normalised"):
        runs = read_vocabulary_runs(runs_file, metric=metric)  # type: ignore[arg-type]
        slices = isoflop_slices(runs, common_budget(runs))
        lines += [optimum_line(each, metric) for each in model_optima(slices)]
        if metric == "bits-per-byte":
            loss_figure(slices).savefig(images / "vocabulary_loss.svg")
    lines += ["", "The best size in bits per byte by language:", ""]
    lines += by_language(runs_file, table)
    lines += ["", "## What the text costs", "", "![Compression and entropy](images/vocabulary_compression.svg)", ""]
    compression_figure(study, sizes=SIZES).savefig(images / "vocabulary_compression.svg")
    for size in (8192, 131_072):
        lines += [f"Held-out text at {size:,} tokens:", "", *markdown(study.details(size)), ""]
    choice = choose_vocabulary(
        AXK1["params"], int(AXK1["hidden_size"]), study=study, compare=[int(AXK1["built"])], tensor_parallel=1
    )
    predictors_figure(choice).savefig(images / "vocabulary_predictors.svg")
    lines += axk1(choice)
    (ROOT / "docs" / "vocabulary_curve.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def losses(table: pd.DataFrame) -> list[str]:
    names = ["bits_per_byte", *(f"bits_per_byte_{language}" for language in LANGUAGES)]
    lines = [
        "| model | vocabulary | tokens seen | all | " + " | ".join(LANGUAGES) + " |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    for (_, size), rows in table.groupby(["params_active_non_embedding", "vocab_size"]):
        model = f"{rows['params_active_non_embedding'].iloc[0] / 1e6:.3g}M"
        cells = [f"{rows[name].mean():.3f} ± {np.ptp(rows[name].to_numpy()) / 2:.3f}" for name in names]
        lines.append(f"| {model} | {size:,} | {rows['tokens'].iloc[0] / 1e6:.2f}M | " + " | ".join(cells) + " |")
    return lines


def optimum_line(found: ModelOptimum, metric: str) -> str:
    best = "none inside" if found.vocab_size is None else f"{found.vocab_size:,}"
    interval = "" if found.low is None or found.high is None else f"{found.low:,} to {found.high:,}"
    return f"| {found.params / 1e6:.3g}M | {metric} | {best} | {interval} |"


def by_language(runs_file: Path, table: pd.DataFrame) -> list[str]:
    lines = ["| model | " + " | ".join(LANGUAGES) + " |", "| --- " + "| ---: " * len(LANGUAGES) + "|"]
    runs = read_vocabulary_runs(runs_file)
    cells: dict[float, list[str]] = {}
    for language in LANGUAGES:
        own = runs.assign(loss=table[f"bits_per_byte_{language}"].to_numpy())
        for found in model_optima(isoflop_slices(own, common_budget(own))):
            best = (
                "none inside" if found.vocab_size is None else f"{found.vocab_size:,} ({found.low:,} to {found.high:,})"
            )
            cells.setdefault(found.params, []).append(best)
    return lines + [f"| {params / 1e6:.3g}M | " + " | ".join(row) + " |" for params, row in cells.items()]


def markdown(details: pd.DataFrame) -> list[str]:
    titles = [str(name).replace("_", " ") for name in details.columns]
    lines = ["| | " + " | ".join(titles) + " |", "| --- " + "| ---: " * len(titles) + "|"]
    for group, row in zip(details.index, details.to_numpy(), strict=True):
        lines.append(f"| {group} | " + " | ".join("" if np.isnan(value) else f"{value:.4g}" for value in row) + " |")
    return lines


def axk1(choice: VocabularyChoice) -> list[str]:
    lines = [
        "## The case of A.X K1: 33B active, hidden size 7168, 163,840 tokens",
        "",
        "![Every predictor with its interval](images/vocabulary_predictors.svg)",
        "",
        "| predictor | best size | 90 % interval |",
        "| --- | ---: | --- |",
    ]
    for law in choice.laws:
        note = "" if law.identified else ", not identified"
        lines.append(f"| {law.title} | {law.vocab_size:,} | {law.low:,} to {law.high:,}{note} |")
    assert choice.optimum is not None
    best = choice.optimum
    edge = " (the largest studied: the optimum lies beyond)" if best.at_the_edge else ""
    lines.append(
        f"| Exact compute per byte of this corpus | {best.vocab_size:,} | "
        f"{best.lowest_flat:,} to {best.highest_flat:,} within 0.1 %{edge} |"
    )
    lines += [
        "",
        "| size | head share of active | both matrices | fp32 logits of 8,192 tokens | training FLOPs per byte |",
    ]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    for cost in choice.costs:
        if cost.compute_above_best is not None:
            lines.append(
                f"| {cost.vocab_size:,} | {cost.head_share_of_active:.2%} | {cost.vocabulary_params / 1e9:.2f}B | "
                f"{cost.logits_bytes / 1e9:.2f} GB | {cost.compute_above_best:+.2%} |"
            )
    return lines


if __name__ == "__main__":
    main()
