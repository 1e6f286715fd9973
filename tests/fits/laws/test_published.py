"""Published coefficients give the numbers their sources print."""

import numpy as np
import pytest

import fits
from fits.decisions.allocation import flat_region, optimal_allocation, regret, surface
from fits.decisions.optimal_vocabulary import optimal_vocabulary
from fits.errors import UserError


def value(name: str, **variables: float) -> float:
    return fits.published(name).evaluate(**variables).value


def test_efficiency_leverage() -> None:
    assert value("tian-leverage", A=0.031, G=12, C=1e22) == pytest.approx(7.24, rel=0.01)
    assert value("tian-leverage", A=9 / 193, G=7, C=2.548e24) == pytest.approx(9.77, rel=0.01)
    assert value("tian-leverage", A=9 / 193, G=12, C=2.548e24) == pytest.approx(9.99, rel=0.01)
    grid = np.linspace(4, 30, 5201)
    best = fits.published("tian-leverage").evaluate(A=0.05, G=grid, C=1e21).value.argmax()
    assert grid[best] == pytest.approx(11.34, rel=0.01)


@pytest.mark.parametrize(
    ("flops", "rate", "batch", "model", "tokens"),
    [
        (1e20, 1.013e-3, 1.347e6, 2.97e9, 33.7e9),
        (1e22, 5.01e-4, 7.21e6, 3.10e10, 323e9),
        (2.548e24, 2.15e-4, 54.3e6, 5.21e11, 4.89e12),
    ],
)
def test_tian(flops: float, rate: float, batch: float, model: float, tokens: float) -> None:
    assert value("tian-learning-rate", C=flops) == pytest.approx(rate, rel=0.005)
    assert value("tian-batch", C=flops) == pytest.approx(batch, rel=0.005)
    assert value("tian-moe-model", C=flops) == pytest.approx(model, rel=0.005)
    assert value("tian-moe-tokens", C=flops) == pytest.approx(tokens, rel=0.005)


def test_learning_rates_and_batches_at_a_large_budget() -> None:
    assert value("deepseek-learning-rate", C=2.55e24) == pytest.approx(2.77e-4, rel=0.005)
    assert value("deepseek-batch", C=2.55e24) == pytest.approx(28.1e6, rel=0.005)
    assert value("steplaw-batch", D=1e13) == pytest.approx(15.4e6, rel=0.005)
    assert value("steplaw-learning-rate", N=519e9, D=1e13) == pytest.approx(7.8e-5, rel=0.01)
    assert value("steplaw-learning-rate", N=33e9, D=1e13) == pytest.approx(5.5e-4, rel=0.01)


def test_hunyuan() -> None:
    assert value("hunyuan-size", C=2.55e24) == pytest.approx(52.3e9, rel=0.005)
    assert value("hunyuan-tokens", C=2.55e24) == pytest.approx(5.11e12, rel=0.005)


@pytest.mark.parametrize(
    ("size", "width", "first", "second", "third"),
    [
        (7e9, 4096, 62281, 67450, 59548),
        (70e9, 8192, 211860, 230861, 217961),
        (30.65e9, 7168, 121722, 132347, 121967),
    ],
)
def test_tao(size: float, width: int, first: int, second: int, third: int) -> None:
    assert value("tao-isoflop", N=size, d=width) == pytest.approx(first, rel=1e-4)
    assert value("tao-derivative", N=size, d=width) == pytest.approx(second, rel=1e-4)
    flops = (size / np.exp(-2.4846510161625193)) ** 2
    assert optimal_vocabulary(fits.published("tao-loss"), size, width, flops) == pytest.approx(third, rel=1e-4)


def test_repeated_data() -> None:
    coefficients = fits.published("muennighoff").record.coefficients
    unique, epochs = 1e10, 4
    effective = unique + unique * coefficients["R_D"] * (1 - np.exp(-(epochs - 1) / coefficients["R_D"]))
    assert effective / (epochs * unique) == pytest.approx(0.931, rel=1e-3)
    repeated = value("muennighoff", N=1e8, D=epochs * unique, U=unique)
    same = value("muennighoff", N=1e8, D=effective, U=effective)
    assert repeated == pytest.approx(same, rel=1e-6)


def test_krajewski_reproduces_its_table() -> None:
    size = 64 * 1e9 * (8 + 4 / 64) / 12  # 64 experts of a 1B model: d^2 blocks (8 E + 4), where 12 d^2 blocks is 1B
    assert value("krajewski", N=size, D=28.94e9, G=16) == pytest.approx(2.491, abs=0.03)


def test_clark_cutoff() -> None:
    for name, size in (("clark-s-base", 7.9e11), ("clark-rl-r", 9.6e10), ("clark-hash", 9.0e10)):
        coefficients = fits.published(name).record.coefficients
        assert 10 ** (-coefficients["b"] / coefficients["c"]) == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize(
    ("name", "others", "flops", "size", "tokens"),
    [
        ("besiroglu", {}, 2.55e24, 155e9, 2.74e12),
        ("besiroglu", {}, 5.76e23, 72.36e9, 1.3268e12),
        ("hoffmann", {}, 2.55e24, 63.0e9, 6.74e12),
        ("joint-moe", {"E": 32}, 2.55e24, 404e9, 1.05e12),
        ("joint-moe", {"E": 8}, 1e21, 3.8e9, 44.3e9),
    ],
)
def test_compute_optimal_sizes(name: str, others: dict, flops: float, size: float, tokens: float) -> None:
    best = optimal_allocation(surface(fits.published(name), others=others), flops)
    assert best.size.value == pytest.approx(size, rel=0.01)
    assert best.tokens.value == pytest.approx(tokens, rel=0.01)
    assert best.interior


def test_regret_and_flat_region_agree() -> None:
    at = surface(fits.published("besiroglu"))
    low, high = flat_region(at, 1e22, waste=0.02)
    assert low.value < optimal_allocation(at, 1e22).size.value < high.value
    assert regret(at, low.value, 1e22).value == pytest.approx(0.02, rel=1e-3)
    assert regret(at, high.value, 1e22).value == pytest.approx(0.02, rel=1e-3)
    assert regret(at, optimal_allocation(at, 1e22).size.value, 1e22).value == pytest.approx(0.0, abs=1e-6)


def test_inference_tokens_make_the_model_smaller() -> None:
    plain = optimal_allocation(surface(fits.published("besiroglu")), 1e23).size.value
    served = surface(fits.published("besiroglu"), inference_tokens=1e12)
    best = optimal_allocation(served, 1e23)
    assert best.size.value < plain
    cost = 6 * best.size.value * best.tokens.value + 2 * best.size.value * 1e12
    assert cost == pytest.approx(1e23, rel=1e-9)


def test_exact_accounting_is_a_callable() -> None:
    embedding = 1e8
    at = surface(fits.published("besiroglu"), flops_per_token=lambda n: 6 * (n + embedding))
    best = optimal_allocation(at, 1e20)
    assert 6 * (best.size.value + embedding) * best.tokens.value == pytest.approx(1e20, rel=1e-9)


def test_outside_the_range_is_said_in_decades() -> None:
    answer = fits.published("tian-learning-rate").evaluate(C=3e24)
    assert answer.in_range is False
    assert "4.0 decades above" in answer.warnings[0]
    assert fits.published("tian-learning-rate").evaluate(C=1e19) == fits.laws.coefficients.Evaluation(
        value("tian-learning-rate", C=1e19), "peak learning rate", True, []
    )


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: fits.published("besirogl"), "did you mean 'besiroglu'"),
        (lambda: fits.published("gadre"), "choose gadre-c4"),
        (lambda: fits.get_law("hofmann"), "did you mean 'hoffmann'"),
        (lambda: value("besiroglu", N=1e9), "needs variable D"),
        (lambda: value("besiroglu", N=1e9, D=1e9, V=3), "no variable 'V'"),
        (lambda: value("besiroglu", N=-1, D=1e9), "N is -1"),
        (lambda: optimal_allocation(surface(fits.published("besiroglu")), -1), "-1 FLOPs"),
        (lambda: surface(fits.published("joint-moe")), "needs a value of E"),
        (lambda: surface(fits.published("tian-batch")), "no variable 'N'"),
    ],
)
def test_mistakes_are_one_sentence(ask, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ask()
