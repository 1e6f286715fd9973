"""How fast fits are, in CPU seconds on one core, beside public packages and one study's procedure on the same data.

The peers run whole, in an environment of their own that this script makes (`peers.py`; minutes): `chinchilla` with
Hoffmann's 4500 starts, `simple-scaling-laws` with 4000 draws, and the procedure of arXiv 2404.10102 (4500 starts of
L-BFGS-B with numerical gradients, then one BFGS with automatic gradients for each of 4000 resamples).

Run: OMP_NUM_THREADS=1 python benchmarks/fits/speed.py [DATA_FOLDER] [--peers PYTHON]
PYTHON is an interpreter that has the packages peers.py needs; without it one is made in a temporary folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fits
from benchmarks.fits.papers.besiroglu2024 import RESAMPLES, resamples, study_runs
from benchmarks.shared import DATA
from fits.tables.files import read_table
from fits.tables.runs import filter_rows

HERE = Path(__file__).resolve().parent
BIND = {"N": "N", "D": "D"}
REPEATS = 5
PACKAGES = (["chinchilla", "autograd", "scipy", "pandas"], ["--ignore-requires-python", "simple-scaling-laws"])
"""For pip, in turn: the last asks for Python 3.12 and runs on 3.11, which the others may not be told to disregard."""


def cpu(job: Callable[[], object], repeats: int = REPEATS) -> float:
    """Least CPU seconds of several runs: other work on the machine can only add."""
    best = np.inf
    for _ in range(repeats):
        begin = time.process_time()
        job()
        best = min(best, time.process_time() - begin)
    return best


def peers(frame: pd.DataFrame, python: str | None) -> dict[str, dict[str, Any]]:
    """CPU seconds and results of the peers on a table with columns N, D and loss."""
    with tempfile.TemporaryDirectory() as folder:
        if python is None:
            subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
            python = f"{folder}/venv/bin/python"
            for packages in PACKAGES:
                subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        table, out = Path(folder) / "table.csv", Path(folder) / "peers.json"
        frame.to_csv(table, index=False)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        subprocess.run([python, HERE / "peers.py", table, out], check=True, env=environment)
        return json.loads(out.read_text())


def chinchilla(data: Path, python: str | None) -> None:
    frame = study_runs(data)
    size = frame["Model Size"].to_numpy(float)
    tokens = frame["Training FLOP"].to_numpy(float) / 6 / size
    table = pd.DataFrame({"N": size, "D": tokens, "loss": frame["loss"].to_numpy(float)})

    best = cpu(lambda: fits.fit("hoffmann", table, bind=BIND, bootstrap=0))
    both = cpu(lambda: fits.fit("hoffmann", table, bind=BIND, bootstrap=RESAMPLES))
    squares = cpu(lambda: fits.fit("hoffmann", table, bind=BIND, bootstrap=RESAMPLES, objective="least-squares"))
    fit = fits.fit("hoffmann", table, bind=BIND, bootstrap=0)

    theirs = peers(table, python)
    seconds = {name: each["cpu_seconds"] for name, each in theirs.items()}
    study = seconds["study, 4500 starts"] + seconds["study, 4000 resamples"]
    line("best fit, Huber", best, "chinchilla, 4500 starts", seconds["chinchilla package, 4500 starts"])
    line("best fit, Huber", best, "study, 4500 starts", seconds["study, 4500 starts"])
    line("fit + 4000 Huber resamples", both, "study, starts and resamples", study)
    line("fit + 4000 draws, least squares", squares, "simple-scaling-laws", seconds["simple-scaling-laws, 4000 draws"])
    reached = min(theirs["study, 4500 starts"]["found"], theirs["chinchilla package, 4500 starts"]["found"])
    print(f"objective: ours {fit.objective.value:.13e}, the peers' best {reached:.13e}")
    _, ours = resamples(table, BIND, fit)
    gap = ours / np.array(theirs["study, 4000 resamples"]["found"]) - 1
    print(f"the study's resamples: ours above by 1e-6 in {(gap > 1e-6).sum()}, below by 1e-6 in {(gap < -1e-6).sum()}")


def routed(data: Path) -> None:
    frame = read_table(data / "clark_routing" / "final_step.csv")
    kinds = "(router_type == 'Dense' or router_type == 'S-Base')"
    frame = filter_rows(frame, f"{kinds} and routing_frequency == 0.5 and k == 1 and seed == 42")
    bind = {"N": "dense_parameter_count", "E": "num_experts", "loss": "loss_validation"}
    settings = {"bind": bind, "objective": "log-least-squares", "bootstrap_kind": "pairs"}
    seconds = cpu(lambda: fits.fit("clark", frame, bootstrap=1000, **settings), 3)
    line("Clark's law (6 parameters), fit + 1000 resamples", seconds, "goal", 2.0)


def million() -> None:
    rng = np.random.default_rng(0)
    size, tokens = 10 ** rng.uniform(7, 10, 1_000_000), 10 ** rng.uniform(9, 12, 1_000_000)
    loss = fits.published("besiroglu").evaluate(N=size, D=tokens).value * np.exp(0.01 * rng.standard_normal(1_000_000))
    table = {"N": size, "D": tokens, "loss": loss}
    line("one million rows, fit and intervals", cpu(lambda: fits.fit("hoffmann", table, bind=BIND), 1), "goal", 60.0)
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        print(f"peak memory of this process: {int(peak.split()[1]) / 2**20:.2f} GiB")


def line(job: str, ours: float, peer: str, theirs: float | None) -> None:
    ratio = f"{theirs / ours:10,.0f} x" if theirs is not None else "-"
    other = f"{theirs:10.3f}" if theirs is not None else "-"
    print(f"{job:50s} {ours:9.4f} s   {peer:34s} {other:>10s} s  {ratio:>12s}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--peers", help="interpreter that has the packages of peers.py")
    given = parser.parse_args()
    print(f"CPU seconds, one core: {platform.processor() or platform.machine()}, NumPy {np.__version__}")
    if given.data.is_dir():
        chinchilla(given.data, given.peers)
        routed(given.data)
    else:
        print(f"the public run tables are not at {given.data}; only the size test runs")
    million()


if __name__ == "__main__":
    main()
