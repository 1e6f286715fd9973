"""Fits: at or below every published objective, converged, honest about what the runs cannot tell."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fits
from fits.errors import UserError
from fits.fitting.result import estimates
from fits.solver.objective import make_objective
from fits.tables.binding import bind_table
from fits.tables.files import read_table
from fits.tables.runs import filter_rows
from tests.places import ROOT
from tests.places import SHARED_DATA as SHARED

PROXY_RUNS = ROOT / "docs" / "data" / "proxy_runs.csv"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the public run tables are not beside the repository")
HOFFMANN = {"N": "`Model Size`", "D": "`Training FLOP`/(6*`Model Size`)"}


def chinchilla(rows: int = 240) -> pd.DataFrame:
    frame = read_table(SHARED / "epoch_chinchilla" / "svg_extracted_data.csv")
    return frame.sort_values("loss").head(rows).sort_index().reset_index(drop=True)


def runs(law: str, truth: dict[str, float], noise: float, seed: int = 0, repeat: int = 4) -> pd.DataFrame:
    """A grid of runs of a law in N and D (and S, G), with log-normal noise."""
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(1e6, 1e9, 6)
    frame = pd.DataFrame(
        [
            {"N": n, "D": n * ratio, "S": rng.choice([1.0, 2.0, 8.0, 32.0]), "G": rng.choice([1.0, 2.0, 4.0, 8.0])}
            for n in sizes
            for ratio in np.geomspace(5, 500, repeat)
        ]
    )
    model = fits.get_law(law)
    columns = {name: frame[name].to_numpy() for name in model.variable_names}
    frame["loss"] = model.evaluate(truth, columns) * np.exp(noise * rng.standard_normal(len(frame)))
    return frame


TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


@needs_data
def test_chinchilla_reaches_the_best_known_optimum_and_its_intervals() -> None:
    fit = fits.fit("hoffmann", chinchilla(), bind=HOFFMANN, bootstrap=1500)
    assert fit.objective.value <= 1.0182740178007e-3
    assert fit.convergence.converged
    assert fit.convergence.starts_at_best > 1
    expected = {"E": 1.8172181, "A": 477.82587, "B": 2143.41736, "alpha": 0.34731050, "beta": 0.36717243}
    for name, value in expected.items():
        assert fit.parameters[name].value == pytest.approx(value, rel=1e-6)
    errors = {"E": 0.0257, "A": 124.5, "B": 1293.2, "alpha": 0.0154, "beta": 0.0206}
    for name, value in errors.items():
        assert fit.parameters[name].standard_error == pytest.approx(value, rel=0.15)
    assert fit.parameters["alpha"].low == pytest.approx(0.317, abs=0.004)
    assert fit.parameters["beta"].high == pytest.approx(0.415, abs=0.006)


@needs_data
def test_the_published_chinchilla_point_is_least_absolute_deviation() -> None:
    fit = fits.fit("hoffmann", chinchilla(), bind=HOFFMANN, objective="log-lad", bootstrap=0)
    assert fit.objective.value <= 1.129494664
    assert fit.values["A"] == pytest.approx(482.0, abs=0.05)
    assert fit.values["beta"] == pytest.approx(0.36585, abs=1e-4)


@needs_data
def test_asymmetric_agrees_with_the_package_that_defaults_to_it() -> None:
    fit = fits.fit("hoffmann", chinchilla(), bind=HOFFMANN, objective="asymmetric", bootstrap=0)
    assert fit.values["E"] == pytest.approx(1.7310, abs=1e-3)
    assert fit.values["alpha"] == pytest.approx(0.2946, abs=1e-3)


@needs_data
@pytest.mark.parametrize("rows", [240, 245])
def test_all_rows(rows: int) -> None:
    fit = fits.fit("hoffmann", chinchilla(rows), bind=HOFFMANN, bootstrap=0)
    assert fit.objective.value <= {240: 1.01827401781e-3, 245: 1.8260105232e-3}[rows]


@needs_data
@pytest.mark.parametrize(
    ("name", "delta", "published"),
    [
        ("hot", 1e-3, 1.981613e-3),
        ("hot", 1e-4, 2.076018e-4),
        ("cool_end", 1e-3, 1.964087e-3),
        ("cool_end", 1e-4, 2.059406e-4),
        ("hot_100b+", 1e-3, 6.592534e-3),
        ("hot_100b+", 1e-4, 6.923300e-4),
        ("hot_120b+_only", 1e-3, 3.862399e-3),
        ("lr_ablation_hot", 1e-3, 1.972862e-3),
        ("slim_chinchilla", 1e-3, 1.204363e-4),
        ("slim_chinchilla", 1e-4, 1.339780e-5),
    ],
)
def test_gemstones_published_objectives_are_met_or_beaten(name: str, delta: float, published: float) -> None:
    frame = read_table(SHARED / "gemstones" / f"wandb_df_for_fitting_{name}.jsonl")
    fit = fits.fit(
        "hoffmann",
        frame,
        bind={"N": "params_active_precise", "D": "tokens", "loss": "final_loss"},
        delta=delta,
        bootstrap=0,
    )
    assert fit.objective.value <= published * (1 + 3e-7)
    assert fit.convergence.converged


@needs_data
@pytest.mark.parametrize(
    ("router", "least", "a"),
    [("S-Base", 1.0417e-5, -0.0830), ("RL-R", 1.0428e-5, -0.0827), ("Hash", 8.890e-6, -0.0874)],
)
def test_clark_routers(router: str, least: float, a: float) -> None:
    frame = read_table(SHARED / "clark_routing" / "final_step.csv")
    kinds = f"(router_type == 'Dense' or router_type == '{router}')"
    frame = filter_rows(frame, f"{kinds} and routing_frequency == 0.5 and k == 1 and seed == 42")
    fit = fits.fit(
        "clark",
        frame,
        bind={"N": "dense_parameter_count", "E": "num_experts", "loss": "loss_validation"},
        objective="log-least-squares",
        bootstrap=0,
    )
    assert fit.objective.value / fit.n_runs / np.log(10) ** 2 <= least * 1.002
    assert fit.values["a"] == pytest.approx(a, abs=5e-4)


@needs_data
def test_repeated_data_goes_below_the_published_local_minimum() -> None:
    frame = read_table(SHARED / "muennighoff" / "fit_set_182.csv")
    bind = {"N": "params_b*1e9", "D": "tokens_b*1e9", "U": "unique_tokens_b*1e9", "loss": "val_loss"}
    base = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804), "alpha": 0.3526596}
    base["beta"] = base["alpha"]
    published = {**base, "R_D": 15.387756, "R_N": 5.309743}
    bound = bind_table(fits.get_law("muennighoff"), frame, bind=bind)
    residual = np.log(bound.loss / fits.get_law("muennighoff").evaluate(published, bound.variables))
    theirs = make_objective("log-huber", 1e-3).penalties(residual).sum()
    assert theirs == pytest.approx(0.015825936570763588, rel=1e-6)
    ours = fits.fit("muennighoff", frame, bind=bind, fix=base, bootstrap=0)
    assert ours.objective.value < theirs * 0.9995
    assert ours.convergence.converged


@needs_data
def test_a_stuck_published_fit_is_beaten() -> None:
    frame = read_table(SHARED / "flame_moe" / "visible_rows_10_of_80.csv")
    bind = {"N": "active_params", "D": "flops/(6*active_params)", "loss": "val_loss"}
    stuck = fits.published("flame").record.coefficients
    ours = fits.fit("hoffmann", frame, bind=bind, bootstrap=0)
    theirs = fits.fit("hoffmann", frame, bind=bind, fix={k: v for k, v in stuck.items() if k != "E"}, bootstrap=0)
    assert ours.objective.value < theirs.objective.value


def test_exact_data_gives_exact_coefficients() -> None:
    fit = fits.fit("hoffmann", runs("hoffmann", TRUTH, 0.0), bootstrap=0)
    for name, value in TRUTH.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-5)


def test_moe_power_is_recovered_within_its_intervals() -> None:
    truth = {**TRUTH, "delta": 0.1, "gamma": 0.03}
    fit = fits.fit("moe-power", runs("moe-power", truth, 0.002, repeat=12), bootstrap=300)
    for name, value in truth.items():
        each = fit.parameters[name]
        assert each.low - 2 * each.standard_error < value < each.high + 2 * each.standard_error
    assert fit.bootstrap.kind == "pairs"
    assert not fit.warnings


def test_few_runs_get_residual_resamples() -> None:
    fit = fits.fit("hoffmann", runs("hoffmann", TRUTH, 0.003), bootstrap=200)
    assert fit.bootstrap.kind == "residual"
    low, high = fit.band(N=1e9, D=1e11)
    assert low < fit.predict(N=1e9, D=1e11) < high
    wide = fit.band(N=1e9, D=1e11, new_run=True)
    assert wide[0] < low and high < wide[1]
    assert fit.extrapolation(N=1e10, D=1e10) == {"N": pytest.approx(1.0), "D": 0.0}


def test_fix_tie_bounds_and_weights() -> None:
    frame = runs("hoffmann", TRUTH, 0.003)
    fixed = fits.fit("hoffmann", frame, fix={"E": 1.8}, bootstrap=50)
    assert fixed.parameters["E"].value == fixed.parameters["E"].high == 1.8
    assert fixed.parameters["E"].how == "fixed"
    tied = fits.fit("hoffmann", frame, tie={"alpha": "beta"}, bootstrap=50)
    assert tied.values["alpha"] == tied.values["beta"]
    assert (tied.draws[:, 3] == tied.draws[:, 4]).all()
    bounded = fits.fit("hoffmann", frame, bounds={"alpha": (0.1, 0.3)}, bootstrap=0)
    assert 0.299 < bounded.values["alpha"] <= 0.3
    assert any("alpha is at its bound" in warning for warning in bounded.warnings)
    frame.loc[0, "loss"] *= 3
    weights = np.ones(len(frame))
    weights[0] = 0
    ignoring = fits.fit("hoffmann", frame, weights=weights, objective="least-squares", bootstrap=0)
    without = fits.fit("hoffmann", frame.drop(index=0), objective="least-squares", bootstrap=0)
    assert ignoring.values == pytest.approx(without.values, rel=1e-4)


def test_a_custom_law_with_a_negative_parameter_equals_the_named_one() -> None:
    frame = runs("hoffmann", TRUTH, 0.003)
    law = fits.custom_law("E + A*N**a + B/D**b", ["N", "D"], domains={"a": "real"}, starts={"A": 400})
    custom = fits.fit(law, frame, bootstrap=0)
    named = fits.fit("hoffmann", frame, bootstrap=0)
    assert custom.values["a"] == pytest.approx(-named.values["alpha"], rel=1e-6)
    assert custom.objective.value == pytest.approx(named.objective.value, rel=1e-9)


def test_the_general_path_agrees_with_the_power_sum_path() -> None:
    frame = runs("hoffmann", TRUTH, 0.003)
    law = fits.custom_law("log(exp(E + A/N**alpha + B/D**beta))", ["N", "D"])
    assert fits.fit(law, frame, bootstrap=0, starts=TRUTH).objective.value == pytest.approx(
        fits.fit("hoffmann", frame, bootstrap=0).objective.value, rel=1e-8
    )


def test_the_same_seed_gives_the_same_draws(tmp_path: Path) -> None:
    frame = runs("hoffmann", TRUTH, 0.003)
    one, two = (fits.fit("hoffmann", frame, bootstrap=40, seed=5) for _ in range(2))
    assert (one.draws == two.draws).all()
    one.save(tmp_path / "law.json")
    again = fits.Fit.load(tmp_path / "law.json")
    assert again.report() == one.report()
    np.testing.assert_allclose(again.draws, one.draws)
    assert again.band(N=1e8, D=1e9) == one.band(N=1e8, D=1e9)
    data = json.loads((tmp_path / "law.json").read_text())
    assert {"law", "objective", "n_runs", "parameters", "decisions", "convergence", "warnings"} <= set(data)
    assert "hoffmann" in one._repr_html_()


def test_a_file_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    fits.fit("hoffmann", runs("hoffmann", TRUTH, 0.003), bootstrap=5).save(tmp_path / "law.json")
    data = json.loads((tmp_path / "law.json").read_text())
    data["draws"][0][0] = "many"
    (tmp_path / "law.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"law\.json"):
        fits.Fit.load(tmp_path / "law.json")


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda f: f.head(4), {}, "4 runs for the 5 free parameters"),
        (lambda f: f.assign(N=1e8), {}, "N .N. is 1e.08 on every row"),
        (lambda f: f.assign(loss=2.0), {}, "2 on every row"),
        (lambda f: f, {"fix": {"E": 9.0}}, "not above the fixed floor"),
        (lambda f: pd.concat([f, f.iloc[[3]]], ignore_index=True), {}, "row 25 repeats row 4"),
        (lambda f: pd.concat([f, f.iloc[[3]]], ignore_index=True).assign(remark=np.nan), {}, "row 25 repeats row 4"),
        (lambda f: f.assign(loss=f.loss.where(f.index != 2)), {}, "row 3: loss"),
        (lambda f: f.assign(loss=f.loss.where(f.index != 2, -1.0)), {}, "row 3: loss is -1"),
        (lambda f: f, {"bind": {"N": "n_param"}}, "no column 'n_param'"),
        (lambda f: f, {"bind": {"M": "N"}}, "no variable 'M'"),
        (lambda f: f, {"fix": {"gamma": 1.0}}, "no parameter 'gamma'"),
        (lambda f: f, {"fix": {"alpha": 0.3}, "tie": {"alpha": "beta"}}, "both fixed and tied"),
        (lambda f: f, {"objective": "hubber"}, "did you mean"),
        (lambda f: f, {"delta": 0.0}, "delta is 0"),
        (lambda f: f, {"level": 95}, "level is 95"),
        (lambda f: f, {"seed": -1}, "seed is -1"),
        (lambda f: f, {"bootstrap_kind": "pear"}, "did you mean 'pairs'"),
        (lambda f: f, {"fix": {"E": -3.0}}, "'E' is -3; it must lie between 0"),
        (lambda f: f, {"starts": {"A": 0.0}}, "'A' is 0; it must lie between 0"),
        (lambda f: f, {"cluster": "budget"}, "no column 'budget'"),
        (lambda f: f, {"starts": {"alhpa": 1.0}}, "'alhpa'"),
        (lambda f: f, {"weights": -np.ones(24)}, "Weights must be"),
        (lambda f: f, {"bind": {"N": "__import__('os')"}}, "not allowed"),
    ],
)
def test_bad_input_is_one_sentence(change, arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        fits.fit("hoffmann", change(runs("hoffmann", TRUTH, 0.003)), bootstrap=0, **arguments)
    assert "\n" not in str(error.value)


def test_one_size_is_enough_once_its_parameters_are_fixed() -> None:
    frame = runs("hoffmann", TRUTH, 0.001, repeat=12)
    frame = frame[frame.N.iloc[0] == frame.N].reset_index(drop=True)
    fit = fits.fit("hoffmann", frame, fix={"A": 480.0, "alpha": 0.35}, bootstrap=0)
    assert fit.values["beta"] == pytest.approx(0.37, abs=0.05)


def test_what_the_runs_cannot_tell_is_said_in_words() -> None:
    frame = runs("hoffmann", TRUTH, 0.0)
    frame["D"] = 20 * frame["N"]  # one ratio: both terms are powers of N
    frame["loss"] = 1.8 + 400 * frame.N**-0.35 + 100 * frame.D**-0.35
    frame = frame.drop_duplicates().reset_index(drop=True)
    fit = fits.fit("hoffmann", frame, tie={"alpha": "beta"}, bootstrap=0)
    assert any("A and B trade off" in warning for warning in fit.warnings)


def test_runs_that_are_not_done_are_left_out() -> None:
    frame = runs("hoffmann", TRUTH, 0.003).assign(status="done")
    frame.loc[3, ["status", "loss"]] = ["diverged", np.nan]
    fit = fits.fit("hoffmann", frame, bootstrap=0)
    assert fit.n_runs == 23
    assert any("1 diverged" in warning for warning in fit.warnings)


def test_many_rows_use_the_sandwich() -> None:
    rng = np.random.default_rng(1)
    n = 60_000
    sizes, tokens = 10 ** rng.uniform(6, 9, n), 10 ** rng.uniform(8, 11, n)
    loss = fits.get_law("hoffmann").evaluate(TRUTH, {"N": sizes, "D": tokens}) * np.exp(0.01 * rng.standard_normal(n))
    fit = fits.fit("hoffmann", {"N": sizes, "D": tokens, "loss": loss}, bootstrap=500)
    assert fit.bootstrap.kind == "normal"
    for name, value in TRUTH.items():
        assert abs(fit.values[name] - value) < 4 * fit.parameters[name].standard_error


@pytest.mark.parametrize("value", [0, -5])
def test_a_token_count_that_is_none_is_named_with_its_row(value: float) -> None:
    table = pd.DataFrame({"N": np.geomspace(1e6, 1e8, 12), "D": np.geomspace(1e8, 1e10, 12)[::-1]})
    table["loss"] = 1.8 + 400 / table.N**0.34 + 2000 / table.D**0.37
    table.loc[6, "D"] = value
    with pytest.raises(UserError, match=rf"row 7: D is {value:g}, but D \(training tokens\) must be above 0"):
        fits.fit("hoffmann", table, bind={"N": "N", "D": "D"}, bootstrap=0)


@pytest.mark.parametrize("seed", range(6))
def test_a_sharp_objective_on_runs_of_few_kinds_still_ends_at_its_minimum(seed: int) -> None:
    """Residuals in clumps far wider apart than delta leave the objective straight in between; it is convex in K."""
    rng = np.random.default_rng(seed)
    clumps = rng.normal(0, 0.5, 6)
    logs = clumps[rng.integers(6, size=41)] + 1e-9 * rng.standard_normal(41)
    table = {"x": rng.uniform(1, 10, 41), "y": np.exp(-2.5 + logs)}
    table["y"] = table["y"] * np.sqrt(table["x"])
    law = fits.custom_law("exp(K)*x**0.5", ["x"], domains={"K": "real"})
    fit = fits.fit(law, table, loss="y", bind={"x": "x"}, bootstrap=0)
    sizes = np.abs((logs - 2.5)[None] - np.sort(logs - 2.5)[:, None])
    least = np.where(sizes < 1e-3, sizes**2 / 2, 1e-3 * (sizes - 5e-4)).sum(axis=1).min()
    assert fit.convergence.converged and fit.objective.value <= least * (1 + 1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e154, 1e300])
def test_the_standard_error_of_any_draws_is_a_number(size: float) -> None:
    draws = size * np.array([[1.0], [2.0], [4.0]])
    found = estimates(["A"], {"A": 2 * size}, draws, 0.9, {"A": "fitted"})["A"]
    assert found.standard_error / size == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))


@pytest.mark.slow
def test_a_parameter_that_runs_off_to_infinity_is_said_and_a_backtest_goes_on() -> None:
    """Two horizons and scatter: below the cut a term may vanish with its coefficient beyond all numbers."""
    table = fits.read_runs(PROXY_RUNS)
    small = table[table["train_flops"] < 5.9e11]
    with pytest.raises(UserError, match=r"'moe-power' fits these runs best with \w+ at infinity.*fix a parameter"):
        fits.fit("moe-power", small, bootstrap=0)
    assert fits.backtest("moe-power", table).cuts
