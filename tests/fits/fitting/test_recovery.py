"""Recovery: runs made from each law's published coefficients with noise give the coefficients back."""

import numpy as np
import pytest

import fits

N, D = ("N", 1e7, 1e10), ("D", 1e9, 1e12)
SETS: dict[str, list[tuple[str, float, float]]] = {
    "besiroglu": [N, D],
    "hoffmann": [N, D],
    "kaplan": [("N", 1e6, 1e10), ("D", 1e8, 1e12)],
    "marin-moe": [("C", 1e17, 1e22)],
    "tian-moe-model": [("C", 1e17, 1e21)],
    "gadre-c4": [N, D],
    "gadre-redpajama": [N, D],
    "clark-s-base": [("N", 1.5e7, 1.3e9), ("E", 1, 512)],
    "clark-rl-r": [("N", 1.5e7, 1.3e9), ("E", 1, 512)],
    "clark-hash": [("N", 1.5e7, 1.3e9), ("E", 1, 512)],
    "krajewski": [("N", 1e8, 4e9), D, ("G", 1, 16)],
    "joint-moe": [N, D, ("E", 1, 256)],
    "abnar": [N, D, ("S", 0.02, 0.98)],
    "tian-leverage": [("A", 0.008, 1.0), ("G", 2, 16), ("C", 3e18, 6e20)],
    "steplaw-learning-rate": [N, D],
    "steplaw-batch": [D],
    "tian-learning-rate": [("C", 1e17, 1e21)],
    "tian-batch": [("C", 1e17, 1e21)],
    "joint-moe-learning-rate": [N, ("E", 1, 64)],
    "power-lines-timescale": [N, D],
    "tao-loss": [("N", 33, 1130), ("V", 4, 96), ("d", 0.5, 2), ("D", 1, 100)],
}
OTHERS: dict[str, tuple[dict[str, float], list[tuple[str, float, float]]]] = {
    "moe-power": (
        {"E": 1.7, "A": 300, "B": 1500, "alpha": 0.32, "beta": 0.34, "delta": 0.1, "gamma": 0.03},
        [N, D, ("S", 1, 64), ("G", 1, 16)],
    ),
    "moe-bits": (
        {
            **{"E": 0.5, "A": 60, "B": 500, "alpha": 0.3, "beta": 0.3, "delta": 0.1, "gamma": 0.03},
            **{"kappa": 0.01, "mu": 5.0, "nu": 0.25},
        },
        [("N", 1e6, 1e9), ("S", 1, 64), ("G", 1, 16), ("H", 1e8, 1e12), ("V", 1e3, 2e5)],
    ),
    "gemstones-width-depth": (
        {"E": 1.5, "A": 200, "B": 3, "G": 3000, "alpha": 0.8, "beta": 0.7, "gamma": 0.4},
        [("W", 256, 4096), ("H", 3, 80), D],
    ),
    "gemstones-shape": (
        {
            **{"E": 1.6, "A": 20, "B": 3, "P": 300, "G": 3000},
            **{"alpha": 0.7, "beta": 0.8, "rho": 0.35, "gamma": 0.4},
        },
        [("W", 64, 4096), ("H", 2, 80), ("N", 1e6, 1e10), ("D", 1e8, 1e12)],
    ),
    "farseer": (
        {"s": -0.02, "q": 0.17, "S": 0.1, "B": 88, "b": -0.1, "Q": -5.3, "A": -0.12, "a": 0.12, "E": 0.42},
        [("N", 1e8, 1e10), D],
    ),
}
# Determined only through others at these ranges: they are asked to predict, not to be near.
WEAK = {"A_max", "E_max", "E_start", "A_start"}


def columns(spans: list[tuple[str, float, float]], rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: low * (high / low) ** rng.random(rows) for name, low, high in spans}


def check(
    law: fits.Law,
    truth: dict[str, float],
    data: dict[str, np.ndarray],
    response: str,
    noise: float,
    fix: dict[str, float] | None = None,
) -> None:
    rng = np.random.default_rng(11)
    exact = law.evaluate(truth, data)
    signed = (exact <= 0).any()
    observed = exact + noise * rng.standard_normal(len(exact)) if signed else None
    if observed is None:
        observed = exact * np.exp(noise * rng.standard_normal(len(exact)))
    objective = "least-squares" if signed else "log-least-squares"
    fit = fits.fit(
        law,
        {**data, response: observed},
        loss=response,
        bind={name: name for name in data},
        objective=objective,
        bootstrap=100,
        fix=fix,
    )
    reached = fit.objective.value
    if not signed:
        at_truth = float((np.log(observed / exact) ** 2).sum())
        assert reached <= at_truth * (1 + 1e-9), "the truth has a lower objective than the fit"
    for name, value in truth.items():
        each = fit.parameters[name]
        if name not in WEAK:
            assert abs(each.value - value) <= 4.5 * each.standard_error + 1e-9 * abs(value), name
    predicted = fit.as_law.evaluate(fit.values, data)
    assert np.abs(predicted - exact).max() < 6 * noise * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("name", SETS)
def test_published_sets(name: str) -> None:
    published = fits.published(name)
    data = columns(SETS[name], 300, seed=4)
    check(published.law, published.record.coefficients, data, "observed", noise=0.002)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "farseer" else name for name in OTHERS]
)
def test_laws_without_published_sets(name: str) -> None:
    truth, spans = OTHERS[name]
    check(fits.get_law(name), truth, columns(spans, 400, seed=5), "observed", noise=0.001)


def test_repeated_data_with_its_base_law_fixed() -> None:
    published = fits.published("muennighoff")
    truth = published.record.coefficients
    data = columns([("N", 1e7, 1e10), ("U", 1e8, 1e11)], 300, seed=6)
    data["D"] = data["U"] * columns([("r", 1, 60)], 300, seed=7)["r"]
    rng = np.random.default_rng(8)
    data["observed"] = published.law.evaluate(truth, data) * np.exp(0.002 * rng.standard_normal(300))
    base = {name: value for name, value in truth.items() if name not in ("R_D", "R_N")}
    fit = fits.fit(published.law, data, loss="observed", bind={v: v for v in "NDU"}, fix=base, bootstrap=300)
    for name in ("R_D", "R_N"):
        assert abs(fit.values[name] - truth[name]) < 4.5 * fit.parameters[name].standard_error


@pytest.mark.parametrize(("name", "anchor"), [("tao-isoflop", "K1"), ("tao-derivative", "N0")])
def test_vocabulary_laws_given_their_anchor(name: str, anchor: str) -> None:
    """Coefficient and anchor multiply, so one of them is given."""
    published = fits.published(name)
    data = columns([("N", 3e7, 1e11), ("d", 512, 8192)], 300, seed=9)
    truth = published.record.coefficients
    check(published.law, truth, data, "observed", noise=0.002, fix={anchor: truth[anchor]})


def test_every_law_is_recovered_here() -> None:
    asked = {fits.published(name).law.name for name in SETS} | set(OTHERS)
    assert {law.name for law in fits.list_laws()} == asked | {"muennighoff", "tao-isoflop", "tao-derivative"}
