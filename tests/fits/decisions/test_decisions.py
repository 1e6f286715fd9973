"""What is decided from a fit: frontiers, profiles, next runs, backtests, pictures."""

from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fits
from fits.decisions.allocation import optimal_allocation, surface
from fits.decisions.approaches import three_approaches
from fits.decisions.decide import decide
from fits.decisions.isoflop import envelope_frontier, isoflop_frontier, isoflop_minima, slices
from fits.decisions.next_runs import choose_runs, decision_at, next_runs
from fits.errors import UserError
from fits.fitting.backtest import backtest, compare_laws
from fits.fitting.influence import influence
from fits.fitting.profiling import profile
from fits.tables.files import read_table
from tests.places import SHARED_DATA as SHARED

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the public run tables are not beside the repository")
TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def isoflops(noise: float = 0.001, seed: int = 0, truth: dict[str, float] = TRUTH) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for flops in np.geomspace(1e18, 1e21, 7):
        best = optimal_allocation(surface((fits.get_law("hoffmann"), truth)), flops).size.value
        for factor in np.geomspace(0.25, 4, 9):
            rows.append({"train_flops": flops, "N": best * factor, "D": flops / 6 / (best * factor)})
    frame = pd.DataFrame(rows)
    exact = fits.get_law("hoffmann").evaluate(truth, {"N": frame.N.to_numpy(), "D": frame.D.to_numpy()})
    frame["loss"] = exact * np.exp(noise * rng.standard_normal(len(frame)))
    return frame


BIND = {"N": "N", "D": "D"}


def test_three_approaches_agree_on_the_exponent() -> None:
    frame = isoflops()
    truth = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    fit = fits.fit("hoffmann", frame, bind=BIND, bootstrap=300)
    third = decide(fit, {"C": 1e22})["size_exponent"]
    assert third["low"] < truth < third["high"]
    flops, size, loss = (frame[name].to_numpy() for name in ("train_flops", "N", "loss"))
    second = isoflop_frontier(flops, size, loss, bootstrap=200)
    assert second.exponent.low - 0.01 < truth < second.exponent.high + 0.01
    assert second.size(1e22).low < second.size(1e22).value < second.size(1e22).high


def test_the_envelope_follows_checkpoints() -> None:
    sizes = np.geomspace(1e7, 3e9, 25)
    size = np.repeat(sizes, 40)
    flops = np.tile(np.geomspace(1e17, 1e22, 40), 25)
    loss = fits.get_law("hoffmann").evaluate(TRUTH, {"N": size, "D": flops / 6 / size})
    frontier = envelope_frontier(flops, size, loss, bootstrap=100)
    assert frontier.exponent.value == pytest.approx(0.37 / 0.72, abs=0.03)


@needs_data
@pytest.mark.parametrize(
    ("warmup", "decay", "hparams", "count", "low", "high"),
    [
        ("long", "kaplan", "base", "kaplan", 0.824, 0.846),
        ("long", "kaplan", "base", "standard", 0.691, 0.717),
        ("short", "kaplan", "base", "standard", 0.591, 0.617),
        ("short", "chinchilla", "base", "standard", 0.560, 0.589),
        ("short", "const", "tuned", "standard", 0.491, 0.505),
    ],
)
def test_porian_exponents(warmup: str, decay: str, hparams: str, count: str, low: float, high: float) -> None:
    frame = read_table(SHARED / "porian" / "isoflop_points.csv").dropna(subset=["loss"])
    frame = frame[(frame.table == "summary_df") & (frame.warmup == warmup) & (frame.decay == decay)]
    frame = frame[(frame.hparams == hparams) & (frame.param_count == count)]
    columns = (frame[name].to_numpy(float) for name in ("flops", "n_params", "loss"))
    frontier = isoflop_frontier(*columns, method="akima", bootstrap=0)
    assert low <= frontier.exponent.value <= high


def test_a_frontier_without_interior_minima_is_refused() -> None:
    flops, size = np.repeat([1e18, 1e19], 4), np.tile([1e6, 2e6, 4e6, 8e6], 2)
    with pytest.raises(UserError, match="best size inside"):
        isoflop_frontier(flops, size, 1 + 1e6 / size, method="parabola", bootstrap=0)
    with pytest.raises(UserError, match="different sizes"):
        isoflop_frontier(np.arange(1, 9) * 1e18, size, 1 + size / 1e6, bootstrap=0)


@settings(deadline=None)
@given(
    budgets=st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    factor=st.floats(1e-3, 1e18),
    shuffled=st.randoms(use_true_random=False),
)
def test_slices_depend_on_ratios_alone(budgets: list[int], factor: float, shuffled: Random) -> None:
    flops = np.array(budgets, dtype=float)
    found = slices(flops)
    order = list(range(len(flops)))
    shuffled.shuffle(order)
    assert np.array_equal(slices(factor * flops[order]), found[order])
    assert set(found) == set(range(found.max() + 1))
    assert (np.diff(found[np.argsort(flops)]) >= 0).all()
    near = np.log(flops[:, None] / flops)
    assert (found[:, None] != found)[abs(near) > 0.1 + 1e-9].all()
    assert (found[:, None] == found)[near == 0].all()


def test_sloppy_budgets_stay_whole_and_a_grid_makes_no_slices() -> None:
    budgets = np.repeat([1.0, 3.0, 9.0], 5)
    steps = np.tile([20.9, 45.7, 88.3, 160.9, 333.4], 3)  # whole steps are a share floor(n) / n of the budget
    assert list(slices(budgets * np.floor(steps) / steps)) == [0] * 5 + [1] * 5 + [2] * 5
    grid = np.outer([1.0, 1.7, 3.1, 5.3, 9.1], [1, 2, 3, 5, 8]).ravel()
    assert np.bincount(slices(grid)).max() < 3
    assert list(slices(np.array([2.0]))) == [0]
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="run 1"):
            slices(np.array([1e18, wrong]))


def four_budgets(seed: int = 0) -> list[np.ndarray]:
    """FLOPs, sizes and losses of 4 x 5 runs, FLOPs equal to 0.05 %, by a law whose true exponent is 0.452."""
    truth = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.2805}
    rng = np.random.default_rng(seed)
    law, rows = fits.get_law("hoffmann"), []
    for budget in (1.0087e18, 1.0062e19, 1.0035e20, 1.0009e21):  # each at an edge of the grid of 1 % in ln C
        best = optimal_allocation(surface((law, truth)), budget).size.value
        for size, off in zip(best * np.geomspace(0.3, 3, 5), rng.uniform(-5e-4, 5e-4, 5), strict=True):
            rows.append((budget * (1 + off), size))
    flops, size = np.array(rows).T
    loss = law.evaluate(truth, {"N": size, "D": flops / 6 / size}) * np.exp(0.002 * rng.standard_normal(len(size)))
    return [flops, size, loss]


@pytest.mark.parametrize("seed", range(5))
def test_the_exponent_does_not_depend_on_where_the_budgets_lie(seed: int) -> None:
    flops, size, loss = four_budgets(seed)
    here = isoflop_frontier(flops, size, loss, bootstrap=50)
    assert [each.runs for each in here.minima] == [5, 5, 5, 5] and here.left_out == ()
    assert here.exponent.value == pytest.approx(0.452, abs=0.05)
    for factor in (1.004, 7e-6):
        away = isoflop_frontier(factor * flops, size, loss, bootstrap=50)
        assert away.exponent.value == pytest.approx(here.exponent.value, abs=1e-9)
        assert away.exponent.high == pytest.approx(here.exponent.high, abs=1e-9)


def test_budgets_without_a_minimum_are_named_with_the_reason() -> None:
    flops, size, loss = four_budgets()
    more = [  # two sizes and a repeat; a loss that bends down; one that falls to the largest size
        *((1e17, each, 3.0) for each in (1e6, 1e6, 2e6)),
        *((1e22, each, value) for each, value in ((1e9, 2.0), (2e9, 2.1), (4e9, 2.0))),
        *((1e23, each, value) for each, value in ((1e9, 2.3), (2e9, 2.1), (4e9, 2.0))),
    ]
    columns = [
        np.concatenate([ours, theirs]) for ours, theirs in zip((flops, size, loss), np.array(more).T, strict=True)
    ]
    found = isoflop_frontier(*columns, bootstrap=0)
    assert found.left_out == (
        "1e+17 FLOPs: 3 different sizes are needed, 2 found",
        "1e+22 FLOPs: the loss does not curve upward over its 3 sizes",
        "1e+23 FLOPs: the largest of 3 sizes is the best",
    )
    assert [(each.runs, each.interior) for each in found.minima] == [(5, True)] * 4 + [(3, False)]
    assert found.exponent.value == isoflop_frontier(flops, size, loss, bootstrap=0).exponent.value
    assert "runs" in found._repr_html_() and found.left_out[0] in found._repr_html_()
    with pytest.raises(UserError, match=r"1e.17 FLOPs: 3 different sizes are needed, 2 found"):
        isoflop_minima(*(column[20:23] for column in columns))


@needs_data
def test_slices_of_public_tables() -> None:
    frame = read_table(SHARED / "openathena_isoflops" / "ml_scalefit.csv")
    assert list(np.bincount(slices(frame.budget))) == [9, 19, 17, 12, 13, 15, 14, 16, 9]
    frame = read_table(SHARED / "openathena_isoflops" / "llama_3.csv").query("condition == 'raw_loss'")
    assert list(np.bincount(slices(6 * frame.params * frame.tokens))) == [16, 17, 16, 16, 18, 14, 12, 12, 6, 6]
    frame = read_table(SHARED / "marin_moe_v16" / "c4_bpb_cells_partial.csv")
    assert list(np.bincount(slices(frame.flops_budget))) == [3, 3, 3, 2, 1]


def test_a_profile_covers_the_truth_and_agrees_with_the_bootstrap() -> None:
    frame = isoflops()
    found = profile("hoffmann", frame, "alpha", bind=BIND, points=15)
    assert found.low is not None and found.high is not None
    assert found.low < TRUTH["alpha"] < found.high
    fit = fits.fit("hoffmann", frame, bind=BIND, objective="log-least-squares", bootstrap=300)
    assert found.high - found.low == pytest.approx(4 * fit.parameters["alpha"].standard_error, rel=0.35)


def test_the_next_run_shrinks_the_interval_as_promised() -> None:
    frame = isoflops(noise=0.002)
    law = fits.get_law("hoffmann")
    fit = fits.fit("hoffmann", frame, bind=BIND, objective="log-least-squares", bootstrap=800)
    target = {"N": 1e11, "D": 2e12}

    def decision(draws: np.ndarray) -> np.ndarray:
        columns = {name: draws[:, index] for index, name in enumerate(law.parameter_names)}
        return np.log(law.evaluate(columns, target))

    candidates = [{"N": 1e8, "D": 2e9}, {"N": 1e10, "D": 4e11}, {"N": 3e7, "D": 1e12}]
    costs = [6 * each["N"] * each["D"] for each in candidates]
    now, ranked = next_runs(fit, candidates, costs, decision)
    assert now == pytest.approx(float(decision(fit.draws).std(ddof=1)), rel=1e-9)
    assert all(each.standard_error <= now for each in ranked)
    best = max(ranked, key=lambda each: each.gain)
    assert best.index == 1
    bought = pd.concat([frame, pd.DataFrame([candidates[1]])], ignore_index=True)
    bought.loc[len(frame), "loss"] = law.evaluate(TRUTH, candidates[1])
    again = fits.fit("hoffmann", bought, bind=BIND, objective="log-least-squares", bootstrap=800)
    assert float(decision(again.draws).std()) == pytest.approx(best.standard_error, rel=0.3)


def test_runs_chosen_together_count_what_those_before_them_taught() -> None:
    fit = fits.fit("hoffmann", isoflops(noise=0.002), bind=BIND, objective="log-least-squares", bootstrap=400)
    decision = decision_at(fit, {"N": 1e11, "D": 2e12})
    candidates = [{"N": size, "D": ratio * size} for size in (1e8, 1e9, 1e10) for ratio in (5, 20, 100)]
    costs = [6 * each["N"] * each["D"] for each in candidates]
    budget = 3e22
    now, chosen = choose_runs(fit, candidates, costs, decision, budget)
    _, ranked = next_runs(fit, candidates, costs, decision)
    affordable = [each for each in ranked if each.cost <= budget]
    assert chosen[0] == affordable[0]
    assert len({each.index for each in chosen}) == len(chosen) and sum(each.cost for each in chosen) <= budget
    errors = [now, *(each.standard_error for each in chosen)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < now
    # All of them at once, by the joint update: the same error as one after another.
    names = list(fit.parameters)
    jacobian = []
    for each in chosen:
        law, point, values = fit.as_law, candidates[each.index], dict(fit.values)
        row = []
        for name in names:
            step = 1e-5 * max(abs(values[name]), 1e-3)
            up, down = (law.evaluate(values | {name: values[name] + sign * step}, point) for sign in (1, -1))
            row.append(float((np.log(up) - np.log(down)) / (2 * step)))
        jacobian.append(row)
    rows, spread = np.array(jacobian), np.cov(fit.draws.T)
    towards = np.array([np.cov(column, decision(fit.draws))[0, 1] for column in fit.draws.T])
    scatter = rows @ spread @ rows.T + fit.residual_scale**2 * np.eye(len(rows))
    left = np.var(decision(fit.draws), ddof=1) - (rows @ towards) @ np.linalg.solve(scatter, rows @ towards)
    assert errors[-1] == pytest.approx(np.sqrt(max(left, 0)), rel=0.02, abs=0.02 * now)


def test_the_best_size_is_a_decision_in_closed_form() -> None:
    fit = fits.fit("hoffmann", isoflops(noise=0.002), bind=BIND, objective="log-least-squares", bootstrap=50)
    draws = np.array([[TRUTH[name] for name in fit.parameters]])
    compute = 1e22
    share = TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])
    best = (share * (compute / 6) ** TRUTH["beta"]) ** (1 / (TRUTH["alpha"] + TRUTH["beta"]))
    assert decision_at(fit, {"C": compute})(draws)[0] == pytest.approx(np.log(best), abs=0.01)
    for wrong in ({"N": 1e9}, {"C": 1e22, "V": 3.0}, {"C": -1.0}):
        with pytest.raises(UserError):
            decision_at(fit, wrong)


def test_a_backtest_prefers_the_law_with_a_floor() -> None:
    frame = isoflops()
    scores, warnings = compare_laws(["hoffmann", "kaplan"], frame, bind=BIND)
    assert [score.law for score in scores] == ["hoffmann", "kaplan"]
    assert scores[0].error < 0.003 < scores[1].error
    assert scores[0].aic < scores[1].aic and not warnings
    assert all(cut.decades > 0 and cut.predicted > 0 for cut in scores[0].cuts)


def test_a_favourite_in_sample_that_extrapolates_worse_is_named() -> None:
    rng = np.random.default_rng(3)
    flops = np.geomspace(1e18, 1e22, 22)
    frame = pd.DataFrame({"C": flops, "loss": (1.6 + 90 * flops**-0.1) * np.exp(0.002 * rng.standard_normal(22))})
    frame.loc[:11, "loss"] *= 1 + 0.01 * np.sin(np.arange(12) * 1.3)  # a wiggle that ends
    plain = fits.custom_law("1.6 + A*C**-a", ["C"], name="plain", starts={"A": 90.0, "a": 0.1})
    wiggly = fits.custom_law(
        "1.6 + A*C**-a*(1 + b*sin(w*log(C) + p))", ["C"], name="wiggly", domains={"b": "real", "p": "real"},
        starts={"A": 90.0, "a": 0.1, "w": 3.0},
    )  # fmt: skip
    scores, warnings = compare_laws([plain, wiggly], frame, objective="log-least-squares")
    favourite = min(scores, key=lambda score: score.aic)
    assert bool(warnings) == (favourite.law != scores[0].law and favourite.law == "wiggly")


def test_a_backtest_without_compute_says_so() -> None:
    frame = isoflops().drop(columns="train_flops").rename(columns={"N": "E"})
    law = fits.custom_law("a + b/E**c", ["E"])
    with pytest.raises(UserError, match="needs each run's compute"):
        backtest(law, frame)


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    from fits import plots

    frame = isoflops()
    fit = fits.fit("hoffmann", frame, bind=BIND, bootstrap=100)
    score = backtest("hoffmann", frame, bind=BIND)
    paths = plots.save_plots(fit, frame, tmp_path / "pictures", score)
    assert {path.stem for path in paths} == {"fit", "residuals", "backtest", "contour"}
    assert all(path.stat().st_size > 5000 for path in paths)
    columns = [frame[name].to_numpy() for name in ("train_flops", "N", "loss")]
    drawn = [
        plots.plot_isoflop(isoflop_frontier(*columns, bootstrap=20), *columns),
        plots.plot_decision(surface(fit), 1e22),
        plots.plot_profile(profile("hoffmann", frame, "E", bind=BIND, points=7)),
    ]
    for axes in drawn:
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title(loc="left")
        axes.figure.savefig(tmp_path / "one.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        plots.save_plots(fit, frame, tmp_path / "file")


def test_approaches_stand_side_by_side() -> None:
    frame = isoflops()
    fit = fits.fit("hoffmann", frame, bind=BIND, bootstrap=100)
    columns = [frame[name].to_numpy() for name in ("train_flops", "N", "loss")]
    table = three_approaches(fit, *columns, at=1e22, bootstrap=50)
    assert [advice.approach[0] for advice in table] == ["1", "2", "3"]
    second, third = table[1].size, table[2].size
    assert second is not None and third is not None
    assert second.value == pytest.approx(third.value, rel=0.3)
    assert (table[0].size is None) == bool(table[0].why_not)
    assert table[1].note == "7 budgets, of 9, 9, 9, 9, 9, 9 and 9 runs" and table[2].note == "63 runs"
    frame.loc[len(frame)] = [3e22, 1e10, 5e11, 2.0]
    columns = [frame[name].to_numpy() for name in ("train_flops", "N", "loss")]
    note = three_approaches(fit, *columns, at=1e22, bootstrap=0)[1].note
    assert note.endswith("; left out: 3e+22 FLOPs: 3 different sizes are needed, 1 found")


def test_an_outlier_and_a_heavy_run_are_named() -> None:
    frame = isoflops()
    frame.loc[10, "loss"] *= 1.05
    lone = pd.DataFrame([{"train_flops": 6e24, "N": 1e11, "D": 1e13, "loss": 1.93}])
    frame = pd.concat([frame, lone], ignore_index=True)
    fit = fits.fit("hoffmann", frame, bind=BIND, bootstrap=0)
    table = influence(fit, frame).set_index("row")
    assert bool(table.loc[11, "outlier"])
    assert bool(table.loc[len(frame), "heavy"])
    assert table["leverage"].sum() == pytest.approx(5, rel=1e-6)


def test_tokens_to_be_served_make_the_best_model_smaller() -> None:
    """arXiv 2401.00448: training and serving from one budget, checked against every size tried one by one."""
    law, flops, served = fits.get_law("hoffmann"), 1e22, 2e12
    plain = optimal_allocation(surface((law, TRUTH)), flops)
    aware = optimal_allocation(surface((law, TRUTH), inference_tokens=served), flops)
    sizes = np.geomspace(1e8, 1e11, 20_000)
    tokens = (flops - 2 * sizes * served) / (6 * sizes)
    kept = tokens > 0
    loss = law.evaluate(TRUTH, {"N": sizes[kept], "D": tokens[kept]})
    assert aware.size.value == pytest.approx(sizes[kept][loss.argmin()], rel=1e-3)
    assert loss.min() * (1 - 1e-7) < aware.loss.value <= loss.min() * (1 + 1e-12)
    assert aware.size.value < plain.size.value and aware.tokens_per_parameter.value > plain.tokens_per_parameter.value


def test_unique_tokens_that_run_out_move_compute_into_size() -> None:
    """arXiv 2305.16264: beyond a few epochs another token is worth little, another parameter still something."""
    scarce, plenty = (
        optimal_allocation(surface(fits.published("muennighoff"), others={"U": unique}), 1e22) for unique in (1e9, 1e13)
    )
    assert scarce.loss.value > plenty.loss.value
    assert scarce.tokens.value > 1e9  # it repeats
    with pytest.raises(UserError, match="needs a value of U"):
        surface(fits.published("muennighoff"))
