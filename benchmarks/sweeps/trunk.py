"""One trunk and its decays against independent runs: what five horizons cost, and whether the losses are the same.

    python benchmarks/sweeps/trunk.py [--width 48] [--flops 1.5e12] [--seeds 3]

The horizons of the design ``hoffmann`` at one width, on the text of Python's standard library. Beside the branches:
independent runs with the same warm-up, and independent runs with a warm-up of 5 % of their own horizon (what one would
do without a trunk), these with several seeds, whose scatter is the noise. Times are the runs' own.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from scaling.commands.console import print_table, say
from trainer_small.config import RunSpec
from trainer_small.designs.blocks import Design, find_design
from trainer_small.designs.design import design_sweep
from trainer_small.engines.sweep_run import run_sweep
from trainer_small.machine.machine import usable_cores
from trainer_small.machine.numerics import processor_name
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import sweep_table
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary

VOCABULARY = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--flops", type=float, default=1.5e12, help="of the trunk and its branches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_corpus(["python:stdlib"], folder / "corpus")
        study_vocabulary(folder / "corpus", folder / "study", max_size=VOCABULARY, sizes=(VOCABULARY,))
        shared = _trunk(options)
        alone = [run for branch in shared.runs for run in _alone(branch, options.seeds)]
        shared.model_copy(update={"runs": (*shared.runs, *alone)}).save(folder / "sweep.yaml")
        run_sweep(folder / "sweep.yaml", folder / "runs", workers=options.workers)
        table = sweep_table(folder / "runs").set_index("run_id")
    _report(table, shared, options.seeds)


def _trunk(options: argparse.Namespace) -> Sweep:
    """The size x horizon block of the design at one width."""
    design = find_design("hoffmann")
    blocks = [design.blocks[0].model_dump(mode="json")]
    return design_sweep(
        corpus="corpus",
        tokenizers={VOCABULARY: f"study/tokenizers/{VOCABULARY}/tokenizer.json"},
        budget_flops=options.flops,
        design=Design.parse(design.model_dump(mode="json") | {"hidden_sizes": [options.width], "blocks": blocks}, "it"),
        recipe={"evaluation": {"validation_bytes": 2**18}},
    )


def _alone(run: RunSpec, seeds: int) -> list[RunSpec]:
    """The same run from its start: with the trunk's warm-up, and with its own for each seed."""
    free = run.model_copy(update={"trunk": None, "saved_at": ()})
    own = free.training.model_copy(update={"warmup_tokens": None})
    return [
        free.model_copy(update={"run_id": f"{run.run_id}-same"}),
        *(
            free.model_copy(update={"run_id": f"{run.run_id}-own{seed}", "training": own, "seed": seed})
            for seed in range(seeds)
        ),
    ]


def _report(table: pd.DataFrame, shared: Sweep, seeds: int) -> None:
    rows, names = [], sorted((run.run_id for run in shared.runs), key=lambda name: table.loc[name, "tokens"])
    for name in names:
        own = table.loc[[f"{name}-own{seed}" for seed in range(seeds)], "loss"]
        branch, same = table.loc[name, "loss"], table.loc[f"{name}-same", "loss"]
        rows.append((name, branch, f"{branch - same:+.1e}", f"{branch - own.mean():+.4f}", f"{own.std(ddof=1):.4f}"))
    say(f"{processor_name()}, {usable_cores()} cores; {seeds} seeds")
    print_table(["run", "loss (nats)", "- same warm-up", "- own warm-up", "sd of a seed"], rows)
    spent = float(table.loc[names, "train_flops_spent"].sum() / table.loc[names, "train_flops"].sum())
    alone = table.loc[[f"{name}-same" for name in names], "wall_seconds"].sum()
    seconds = float(table.loc[names, "wall_seconds"].sum())
    say(f"trunk and branches cost {spent:.1%} of the FLOPs of independent runs, {seconds / alone:.1%} of their time")
    say(f"({seconds:.0f} s against {alone:.0f} s)")


if __name__ == "__main__":
    main()
