"""What the launcher costs: runs of about 20 s through the local engine, and the status of 10,000 runs.

    python benchmarks/sweeps/overhead.py [--runs 8] [--seconds 20] [--folders 10000]

The time of a worker is from the call to the end of its last run; the overhead is what of it is not in the runs' own
training and evaluation. It has two parts, told apart by a sweep of one short run a worker beside the timed one: a
worker's start (loading torch, first step), once, and what every run costs besides. The status is the command a user
types.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scaling.commands.console import print_table, say
from trainer_small.designs.design import design_sweep
from trainer_small.designs.recipe import PROXY_RECIPE
from trainer_small.engines.sweep_run import SweepProgress, run_sweep
from trainer_small.machine.machine import usable_cores
from trainer_small.machine.numerics import processor_name
from trainer_small.result import read_result
from trainer_small.sweeps.sweep import Sweep
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary

VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run, about")
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=usable_cores())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _corpus(folder)
        measured = _overhead(folder, options)
        listing = _status(folder, options.folders)
    each = options.runs / options.workers
    say(f"{processor_name()}, {usable_cores()} cores, {options.workers} workers of one thread")
    many = (measured.start + 50 * measured.per_run) / (50 * measured.own)
    print_table(
        ["measured", "value", "goal"],
        [
            (f"a run's own time, mean of {options.runs}", f"{measured.own:.1f} s", "about 20 s"),
            ("a worker's start", f"{measured.start:.1f} s", ""),
            ("each further run", f"{measured.per_run:.2f} s", ""),
            (f"overhead, {each:g} runs per worker, measured", f"{measured.share:.1%}", ""),
            ("overhead, 50 runs per worker, from the two parts", f"{many:.1%}", "5 %"),
            (f"scaling sweep status of {options.folders:,} runs", f"{listing:.2f} s", "2 s"),
        ],
    )


@dataclass(frozen=True)
class Overhead:
    own: float
    """Mean of the runs' own seconds."""
    start: float
    per_run: float
    share: float


def _corpus(folder: Path) -> None:
    texts = folder / "texts"
    texts.mkdir()
    for path in sorted(Path(json.__file__).parents[1].glob("*.py"))[:60]:
        shutil.copy(path, texts / f"{path.stem}.txt")
    build_corpus([texts], folder / "corpus", validation_fraction=0.1)
    study_vocabulary(folder / "corpus", folder / "study", max_size=VOCABULARY, sizes=(VOCABULARY,))


def _overhead(folder: Path, options: argparse.Namespace) -> Overhead:
    tokenizers = {VOCABULARY: f"study/tokenizers/{VOCABULARY}/tokenizer.json"}
    few = {"evaluation": {"validation_bytes": 20_000}}
    base = design_sweep(
        corpus="corpus", tokenizers=tokenizers, budget_flops=1e13, recipe=few, hidden_sizes=(32, 48, 64)
    ).runs[0]

    def sweep(tokens: int, name: str, count: int) -> Path:
        steps = max(tokens // PROXY_RECIPE.batch_tokens, 20) * PROXY_RECIPE.batch_tokens
        training = base.training.model_copy(update={"tokens": steps})
        runs = [base.model_copy(update={"run_id": f"run{at}", "seed": at, "training": training}) for at in range(count)]
        Sweep(name=name, corpus="corpus", tokenizers=tokenizers, runs=tuple(runs)).save(folder / f"{name}.yaml")
        return folder / f"{name}.yaml"

    # Short runs, one a worker, say how fast a run is here.
    few, _ = _timed(sweep(200 * PROXY_RECIPE.batch_tokens, "probe", options.workers), folder / "probe", options.workers)
    result = read_result(folder / "probe" / "run0")
    assert result is not None and result.speed is not None
    tokens = int(result.speed.tokens_per_second * options.seconds)
    shutil.copytree(folder / "probe" / "tokens", folder / "runs" / "tokens")
    more, own = _timed(sweep(tokens, "timed", options.runs), folder / "runs", options.workers)
    each = options.runs / options.workers
    per_run = max(more - few, 0.0) / (each - 1)
    return Overhead(own / each, max(few - per_run, 0.0), per_run, more / own)


def _timed(file: Path, out: Path, workers: int) -> tuple[float, float]:
    """A worker's seconds that are not its runs' own, and those that are; means over the workers."""
    started, ends = time.perf_counter(), []

    def hear(at: SweepProgress) -> None:
        if at.event is not None and at.event.status == "done":
            ends.append(time.perf_counter() - started)

    status = run_sweep(file, out, workers=workers, progress=hear)
    results = [read_result(out / run.run_id) for run in status.runs]
    own = sum(result.speed.wall_seconds for result in results if result and result.speed) / workers
    return sum(ends[-workers:]) / workers - own, own  # each worker's last run is among the last to end


def _status(folder: Path, count: int) -> float:
    """Half of the folders done, a tenth with metrics alone, the others queued, all copies of real ones."""
    done, many = folder / "runs" / "run0", folder / "many"
    names = ("config.yaml", "result.json", "metrics.jsonl")
    files = {name: (done / name).read_bytes() for name in names}
    for index in range(count):
        run = many / f"run{index:05d}"
        run.mkdir(parents=True)
        for name in names:
            if name == "config.yaml" or index % 10 < 5 or (index % 10 == 5 and name == "metrics.jsonl"):
                (run / name).write_bytes(files[name])
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "scaling", "sweep", "status", str(many), "--json"], check=True, stdout=-3)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
