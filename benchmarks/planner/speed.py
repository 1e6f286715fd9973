"""How long a plan takes over about a million shapes: by a published law, and by a fitted one with 1000 draws.

    python benchmarks/planner/speed.py [--draws 1000]

One core. Every shape is counted exactly (parameters, FLOPs), judged by the limits and priced by the law; the million is
of shapes that keep every limit or nearly, so that many losses are computed. ``counted`` is what was counted to find
them. A plan also searches its parallel layout where a cluster is given, and asks the other laws the same question.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from scaling.cluster.budget import cluster_budget
from scaling.commands.console import print_table, say
from scaling.plan import Cluster
from scaling.planner.constraints import constraints_of
from scaling.planner.loss_model import LossModel, Text, fitted_loss_model
from scaling.planner.planner import plan_for
from scaling.planner.published_loss_models import published_loss_model
from scaling.planner.search import Spending, candidates, search
from scaling.planner.search_space import SearchSpace, usual_space
from trainer_small.ladder import Experts, Family, usual_depth
from trainer_small.machine.numerics import processor_name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cluster = cluster_budget(1024, "h200", 75, 384 / 989)
    with tempfile.TemporaryDirectory() as name:
        law = _fitted(Path(name), options.draws)
        fit = fitted_loss_model(fits.Fit.load(law))
        rows = [
            _row("published:tian", published_loss_model("tian"), "published:tian", cluster),
            _row(f"moe-power, {options.draws} draws", fit, str(law), cluster),
        ]
    columns = ["law", "counted", "priced", "count s", "price s", "draws s", "whole plan s", "with layout s"]
    print_table(columns, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(f"peak memory {peak:.2f} GiB; one core of {processor_name()}")


def _row(name: str, loss_model: LossModel, law: str, cluster: Cluster) -> list[str | float | int]:
    space = usual_space(vocab_size=(163840,), max_params_total=1e12, head_factors=(0.75, 1.0, 1.5, 2.0))
    marks = [time.perf_counter()]
    found = candidates(space, *_question(space, cluster.hardware_flops))
    marks.append(time.perf_counter())
    judged = search(loss_model, found)
    marks.append(time.perf_counter())
    judged.best_of_draws.max(initial=0)
    marks.append(time.perf_counter())
    settings = {"vocab_size": 163840, "max_params_total": 1e12}
    plan_for(law, cluster.hardware_flops, **settings)
    marks.append(time.perf_counter())
    plan_for(law, cluster.hardware_flops, cluster=cluster, **settings)
    marks.append(time.perf_counter())
    return [name, found.tried, len(found.table), *(round(float(each), 2) for each in np.diff(marks))]


def _question(space: SearchSpace, flops: float) -> tuple:
    return Spending(flops, Text(4096)), constraints_of(space, flops, "h200")


def _fitted(folder: Path, draws: int) -> Path:
    """A law fitted to 90 synthetic proxies, with losses of a known law and 0.3 % of noise."""
    random, rows = np.random.default_rng(0), []
    family = Family(attention="mla")
    for width in (256, 384, 512, 640, 768, 1024):
        for experts in (16, 64, 256):
            for granularity in (1.0, 4.0, 12.0):
                routing = Experts(
                    num_experts=experts, experts_per_token=4, num_shared_experts=1, granularity=granularity
                )
                shape = family.shape(width, round(usual_depth(width)), routing, 32000)
                tokens = shape.params_active * random.choice([10, 30, 100])
                size, sparsity = shape.params_active_non_embedding, 1 / shape.activation_ratio
                loss = 1.7 + 400 * size**-0.34 * sparsity**-0.1 * shape.granularity**-0.03 + 2000 * tokens**-0.36
                row = {"tokens": float(tokens), "loss": loss * np.exp(random.normal(0, 0.003))}
                columns = ("params_active_non_embedding", "activation_ratio", "granularity", "vocab_size")
                rows.append(row | {column: float(getattr(shape, column)) for column in columns})
    path = folder / "law.json"
    fits.fit("moe-power", pd.DataFrame(rows), bootstrap=draws).save(path)
    return path


if __name__ == "__main__":
    main()
