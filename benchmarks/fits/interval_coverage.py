"""Do intervals hold? Simulated sweeps with known truth; how often the intervals of decisions contain it.

Four laws, two noise models (independent Gaussian; heavy-tailed, Student t with 3 degrees of freedom), a small and a
larger sweep. Judged: N* and loss at 10 and 100 times the largest run's compute, at nominal 90 % and 95 %, with the
default method (objective, bootstrap chosen by the number of runs).

Run: OMP_NUM_THREADS=1 python benchmarks/fits/interval_coverage.py [SWEEPS]
"""

import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np

import fits
from fits.decisions.allocation import Surface, surface
from fits.fitting.result import interval

TRUTHS: dict[str, dict[str, float]] = {
    "hoffmann": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "gadre": {"E": 1.83665, "A": 166.211, "B": 286.9, "b": -0.272851},
    "moe-power": {"E": 1.7, "A": 300, "B": 1500, "alpha": 0.32, "beta": 0.34, "delta": 0.1, "gamma": 0.05},
    "krajewski": {"c": 0.47, "g": 2.1, "a": 18.1, "b": 30.8, "gamma": 0.58, "alpha": 0.115, "beta": 0.147},
}
OTHERS = {"moe-power": {"S": 8.0, "G": 4.0}, "krajewski": {"G": 4.0}}
SWEEPS_OF = {"small": (4, 6), "large": (6, 16)}
NOISE = 0.003
LEVELS = (0.90, 0.95)
JUDGED = ("N* at 10x", "loss at 10x", "N* at 100x", "loss at 100x")
DRAWS = 400


def sweep(law: fits.Law, truth: dict[str, float], size: str, noise: str, rng: np.random.Generator) -> dict:
    """Runs on a grid of sizes and tokens per parameter, the remaining variables drawn at random."""
    sizes, ratios = SWEEPS_OF[size]
    params = np.repeat(np.geomspace(1e7, 1e9, sizes), ratios)
    columns = {"N": params, "D": params * np.tile(np.geomspace(5, 320, ratios), sizes)}
    count = sizes * ratios
    for name in law.variable_names:
        if name not in columns:
            columns[name] = rng.choice([1.0, 2.0, 4.0, 8.0, 16.0], count)
    scatter = rng.standard_normal(count) if noise == "gaussian" else rng.standard_t(3, count) / np.sqrt(3)
    columns["loss"] = law.evaluate(truth, columns) * np.exp(NOISE * scatter)
    return columns


def decisions(at: Surface, budgets: list[float]) -> np.ndarray:
    """log N* and loss at each budget under every coefficient row, [4, B]."""
    return np.array([row for budget in budgets for row in (at.optimum(budget), at.best_loss(budget))])


def judge(name: str, size: str, noise: str, sweeps: int) -> tuple[dict[tuple[str, float], float], str]:
    """Coverage of each decision at each level, and the bootstrap that was used."""
    law, truth = fits.get_law(name), TRUTHS[name]
    others = OTHERS.get(name, {})
    hits: dict[tuple[str, float], int] = defaultdict(int)
    kind = ""
    for seed in range(sweeps):
        data = sweep(law, truth, size, noise, np.random.default_rng(seed))
        top = 6 * float((data["N"] * data["D"]).max())
        budgets = [10 * top, 100 * top]
        exact = decisions(surface((law, truth), others=others), budgets)[:, 0]
        fit = fits.fit(law, data, bind={v: v for v in law.variable_names}, bootstrap=DRAWS, seed=seed)
        kind = fit.bootstrap.kind
        drawn = replace(surface(fit, others=others), coefficients=fit.draws)
        values = decisions(drawn, budgets)
        for label, true, row in zip(
            ("N* at 10x", "loss at 10x", "N* at 100x", "loss at 100x"), exact, values, strict=True
        ):
            for level in LEVELS:
                low, high = interval(row, level)
                hits[label, level] += bool(low <= true <= high)
    return {key: count / sweeps for key, count in hits.items()}, kind


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(
        f"{sweeps} sweeps a row; a coverage of 90 % is measured to {100 * np.sqrt(0.09 / sweeps):.1f} points (1 s.d.)"
    )
    labels = [f"{what} {level:.0%}" for what in JUDGED for level in LEVELS]
    print("| law | sweep | noise | bootstrap | " + " | ".join(labels) + " |")
    print("| --- | --- | --- | --- |" + " ---: |" * len(labels))
    for name in TRUTHS:
        for size in SWEEPS_OF:
            for noise in ("gaussian", "heavy-tailed"):
                found, kind = judge(name, size, noise, sweeps)
                cells = [f"{100 * found[key]:.1f}" for key in found]
                sizes, ratios = SWEEPS_OF[size]
                print(f"| {name} | {sizes * ratios} runs | {noise} | {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
