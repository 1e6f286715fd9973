"""What the launcher costs: runs of about 20 s through the local engine, and the status of 10,000 runs.

    python benchmarks/sweep_overhead.py [--runs 8] [--seconds 20] [--folders 10000]

The overhead is the wall time of the whole call, less what the runs themselves report (training and evaluation), over
the latter; with W workers the call has W seconds a second to give. The status is timed as the command a user types.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scaling.console import print_table, say
from trainer_small.config import EvaluationConfig
from trainer_small.designs.design import PROXY_RECIPE, design_sweep
from trainer_small.machine import usable_cores
from trainer_small.numerics import processor_name
from trainer_small.result import read_result
from trainer_small.sweep import Sweep
from trainer_small.sweep_run import run_sweep
from vocab_study.corpus import build_corpus
from vocab_study.study import study_vocabulary

VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run, about")
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=usable_cores())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _corpus(folder)
        overhead, own, wall = _overhead(folder, options)
        listing = _status(folder, options.folders)
    say(f"{processor_name()}, {usable_cores()} cores, {options.workers} workers of one thread")
    print_table(
        ["measured", "value", "goal"],
        [
            (f"runs' own time, mean of {options.runs}", f"{own / options.runs:.1f} s", "about 20 s"),
            ("wall time of the call", f"{wall:.1f} s", ""),
            ("launcher's share over the runs' own time", f"{overhead:.1%}", "5 %"),
            (f"scaling sweep status of {options.folders:,} runs", f"{listing:.2f} s", "2 s"),
        ],
    )


def _corpus(folder: Path) -> None:
    texts = folder / "texts"
    texts.mkdir()
    for path in sorted(Path(json.__file__).parents[1].glob("*.py"))[:60]:
        shutil.copy(path, texts / f"{path.stem}.txt")
    build_corpus([texts], folder / "corpus", validation_fraction=0.1)
    study_vocabulary(folder / "corpus", folder / "study", max_size=VOCABULARY, sizes=(VOCABULARY,))


def _overhead(folder: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    tokenizers = {VOCABULARY: f"study/tokenizers/{VOCABULARY}/tokenizer.json"}
    few = EvaluationConfig(validation_bytes=20_000)
    base = design_sweep(
        corpus="corpus", tokenizers=tokenizers, budget_flops=1e13, evaluation=few, hidden_sizes=(32, 48, 64)
    ).runs[0]

    def sweep(tokens: int, name: str, count: int) -> Path:
        steps = max(tokens // PROXY_RECIPE.batch_tokens, 20) * PROXY_RECIPE.batch_tokens
        training = base.training.model_copy(update={"tokens": steps})
        runs = [base.model_copy(update={"run_id": f"run{at}", "seed": at, "training": training}) for at in range(count)]
        Sweep(name=name, corpus="corpus", tokenizers=tokenizers, runs=tuple(runs)).save(folder / f"{name}.yaml")
        return folder / f"{name}.yaml"

    # A short one of as many workers says how fast a run is here.
    probe = folder / "probe"
    run_sweep(sweep(200 * PROXY_RECIPE.batch_tokens, "probe", options.workers), probe, workers=options.workers)
    result = read_result(probe / "run0")
    assert result is not None and result.speed is not None
    tokens = int(result.speed.tokens_per_second * options.seconds)
    out = folder / "runs"
    file = sweep(tokens, "timed", options.runs)
    shutil.copytree(probe / "tokens", out / "tokens")
    started = time.perf_counter()
    run_sweep(file, out, workers=options.workers)
    wall = time.perf_counter() - started
    own = 0.0
    for at in range(options.runs):
        result = read_result(out / f"run{at}")
        assert result is not None and result.speed is not None
        own += result.speed.wall_seconds
    return wall * min(options.workers, options.runs) / own - 1, own, wall


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
