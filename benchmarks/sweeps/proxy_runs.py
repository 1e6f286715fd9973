"""Our own small MoE runs: sizes x horizons, experts x granularity, seeds, on the text that comes with Python.

    python benchmarks/sweeps/proxy_runs.py [--out FOLDER] [--workers N]

Writes docs/data/proxy_runs.csv, described in docs/data.md. About 40 minutes on one core; the same command carries on
where it was stopped. The text is the standard library of the Python that runs it: another version, other losses.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from fits.tables.runs import write_runs
from trainer_small.config import EvaluationConfig, RunSpec
from trainer_small.designs.recipe import BASE_EXPERTS, PROXY_RECIPE
from trainer_small.engines.sweep_run import SweepProgress, run_sweep
from trainer_small.ladder import Experts, Family, usual_depth
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import sweep_table
from vocab_study.corpus.corpus import build_corpus
from vocab_study.study.make_study import study_vocabulary

ROOT = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 2048
HORIZONS = (2**18, 3 * 2**18, 9 * 2**18)
"""Training tokens; each is three times the one before, and the longest is less than one pass of the text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "proxy_runs_out")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    out = options.out
    build_corpus(["python:stdlib"], out / "corpus")
    study_vocabulary(out / "corpus", out / "study", max_size=VOCAB_SIZE, sizes=(VOCAB_SIZE,))
    Sweep(
        name="proxy-runs",
        purpose="loss in size, tokens, experts and granularity, with the noise of seeds",
        corpus="corpus",
        tokenizers={VOCAB_SIZE: f"study/tokenizers/{VOCAB_SIZE}/tokenizer.json"},
        runs=tuple(_runs()),
    ).save(out / "sweep.yaml")
    if run_sweep(out / "sweep.yaml", out / "runs", workers=options.workers, progress=_say).interrupted:
        raise SystemExit("stopped; the same command carries on")
    write_runs(sweep_table(out / "runs"), ROOT / "docs" / "data" / "proxy_runs.csv")


def _runs() -> Iterator[RunSpec]:
    for hidden_size, horizons in ((32, 3), (64, 3), (96, 3), (128, 2)):
        for horizon in range(horizons):
            yield _run("size x horizon", hidden_size, horizon)
    for horizon in range(3):
        yield _run("noise", 32, horizon, seed=1)
    for horizon in range(2):
        yield _run("noise", 64, horizon, seed=1)
    # Experts (4 to 32 at granularity 2) x granularity, the same active width along each row of the table.
    for hidden_size, granularities, seeds in ((32, (2, 4, 8), (0, 1)), (64, (2, 4), (0,))):
        for seed in seeds:
            for granularity in granularities:
                for experts in (4, 8, 16, 32):
                    if (experts, granularity) != (8, 2):  # stands in the grid
                        yield _run("experts x granularity", hidden_size, 1, experts, granularity, seed)


def _run(
    purpose: str, hidden_size: int, horizon: int, num_experts: int = 8, granularity: int = 2, seed: int = 0
) -> RunSpec:
    """A run with the base routing at ``num_experts``, every expert then cut into ``granularity`` / 2 pieces."""
    pieces = granularity // 2
    experts = Experts(
        num_experts=num_experts * pieces,
        experts_per_token=BASE_EXPERTS.experts_per_token * pieces,
        num_shared_experts=BASE_EXPERTS.num_shared_experts * pieces,
        granularity=granularity,
    )
    name = f"d{hidden_size}-t{horizon}-e{experts.num_experts}-g{granularity}" + (f"-s{seed}" if seed else "")
    return RunSpec(
        run_id=name,
        purpose=purpose,
        architecture=Family().shape(hidden_size, round(usual_depth(hidden_size)), experts, VOCAB_SIZE),
        training=PROXY_RECIPE.model_copy(update={"tokens": HORIZONS[horizon]}),
        evaluation=EvaluationConfig(validation_bytes=2**19),
        seed=seed,
    )


def _say(state: SweepProgress) -> None:
    if state.event is not None and state.event.status != "running":
        left = "" if state.seconds_left is None else f", {state.seconds_left / 60:.0f} min left"
        print(f"{state.finished} of {state.runs} runs: {state.event.run_id} {state.event.status}{left}", flush=True)


if __name__ == "__main__":
    main()
