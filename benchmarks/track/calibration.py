"""How often ``scaling track`` cries wolf, and how often it sees a run that is worse: by simulation from the promise.

    python benchmarks/track/calibration.py [--trials 1000] [--csv FILE]

Each trial draws the law's error, the run's own deviation, the gap of an undecayed run and autocorrelated noise of the
rows, then asks ``compare`` once. A calibrated alarm of 5 % fires in about 5 % of the trials of a run on the curve.
"""

import argparse

import numpy as np

from scaling.track.compare import compare
from scaling.track.log import Log
from scaling.track.simulate import Truth, drawn_log
from tests.scaling.big_runs import promised_plan

CASES = (
    ("undecayed rows only", 0.1, 0, 0.9),
    ("undecayed rows only", 0.5, 0, 0.9),
    ("and 3 decayed branches", 0.1, 3, 0.9),
    ("and 5 decayed branches", 0.5, 5, 0.9),
    ("the end of the decay", 1.0, 0, 0.9),
    ("and 5 branches, rows independent", 0.5, 5, 0.0),
    ("and 5 branches, long memory", 0.5, 5, 0.99),
)


def log_of(table) -> Log:
    """The drawn table as the reader would give it."""
    table = table.sort_values("tokens", kind="stable")
    loss, decayed = table["val_loss"].to_numpy(float), table["decayed"].to_numpy(bool)
    return Log(table["tokens"].to_numpy(float), loss, decayed, (), False, True)


def rate(plan, trials: int, seed: int, until: float, branches: int, memory: float, factor: float):
    """Share of alarms, and the mean deviation that is said to be detectable."""
    rng = np.random.default_rng(seed)
    fired, detectable = 0, []
    for _ in range(trials):
        truth = Truth(factor=factor, memory=memory)
        table = drawn_log(plan, rng, until=until, rows=400, branches=branches, truth=truth)
        found = compare(plan, log_of(table.assign(tokens=table["step"] * plan.batch_tokens)))
        fired += found.verdict != "on the curve"
        detectable.append(found.detectable)
    return fired / trials, float(np.mean(detectable))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print("| law's error | log | tokens seen | false alarms | detects 1 % worse | 2 % worse | detectable (80 %) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for law_sd in (0.0025, 0.005):
        plan = promised_plan(law_sd=law_sd, run_sd=0.002)
        for name, until, branches, memory in CASES:
            rates = [rate(plan, trials, 0, until, branches, memory, factor) for factor in (1.0, 1.01, 1.02)]
            seen = " | ".join(f"{share:.1%}" for share, _ in rates)
            print(f"| {law_sd:.2%} | {name} | {until:.0%} | {seen} | {rates[0][1]:.2%} |", flush=True)
    print("\nTen looks at one run (5 %, 10 %, 20 %, ... 90 % of the tokens, a decayed branch for each):")
    plan = promised_plan(law_sd=0.0025, run_sd=0.002)
    rng, ever = np.random.default_rng(1), 0
    for _ in range(trials):
        table = drawn_log(plan, rng, until=0.79, rows=400, branches=8)
        table = table.assign(tokens=table["step"] * plan.batch_tokens)
        looks = [table[table["step"] <= share * plan.steps] for share in np.linspace(0.05, 0.79, 10)]
        ever += any(compare(plan, log_of(look)).verdict != "on the curve" for look in looks)
    print(f"at least one false alarm in {ever / trials:.1%} of the runs on the curve")


if __name__ == "__main__":
    main()
