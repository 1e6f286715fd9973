"""`scaling fit` and `scaling laws`: the exact forms people type."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import fits
from scaling.cli import app
from tests.places import SHARED_DATA as SHARED

TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    sizes, ratios = np.repeat(np.geomspace(1e6, 1e9, 7), 6), np.tile(np.geomspace(5, 500, 6), 7)
    loss = fits.get_law("hoffmann").evaluate(TRUTH, {"N": sizes, "D": sizes * ratios})
    frame = pd.DataFrame(
        {
            "params_active_non_embedding": sizes.round(),
            "tokens": (sizes * ratios).round(),
            "loss": loss * np.exp(0.003 * rng.standard_normal(len(loss))),
            "Their Size": sizes,
            "budget": np.repeat(np.arange(7), 6),
        }
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def test_our_own_columns_need_no_binding(table: Path) -> None:
    code, out, _ = run("fit", str(table), "--law", "hoffmann", "--bootstrap", "100", "--json", "--at", "C=1e21")
    data = json.loads(out)
    assert code == 0
    assert data["law"] == "hoffmann" and data["n_runs"] == 42
    assert data["objective"]["name"] == "log-huber" and data["objective"]["value"] > 0
    assert set(data["parameters"]["alpha"]) >= {"value", "low", "high", "standard_error"}
    assert set(data["convergence"]) >= {
        "gradient_norm",
        "starts",
        "starts_at_best",
        "condition_number",
        "at_bound",
        "at_start",
    }
    decision = data["decisions"]["C=1e21"]
    assert decision["N"]["low"] < decision["N"]["value"] < decision["N"]["high"]
    assert decision["extrapolation_decades"]["N"] > 0
    assert isinstance(data["warnings"], list)


def test_every_option_together(table: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "law.json"
    code, out, err = run(
        *("fit", str(table), "--law", "hoffmann", "--bind", "N=`Their Size`", "--bind", "D=tokens"),
        *("--bind", "loss=loss", "--where", "loss < 50", "--cluster", "budget", "--objective", "huber"),
        *("--delta", "1e-3", "--fix", "E=1.8", "--tie", "alpha=beta", "--weights", "1/loss", "--bootstrap", "50"),
        *("--seed", "3", "--level", "0.9", "--at", "C=1e20", "--at", "N=1e9,D=1e11", "--backtest"),
        *("--out", str(out_file)),
    )
    assert code == 0, err
    assert "90% interval" in out and "backtest" in out
    fit = fits.Fit.load(out_file)
    assert fit.parameters["E"].how == "fixed" and fit.bootstrap.kind == "cluster"
    assert set(fit.decisions) == {"C=1e20", "N=1e9,D=1e11"}


def test_laws_side_by_side_profiles_approaches_and_conspicuous_runs(table: Path) -> None:
    frame = pd.read_csv(table)
    frame.loc[20, "loss"] *= 1.2
    frame["flops"] = 6 * frame["Their Size"] * frame["tokens"]
    frame.to_csv(table, index=False)
    asked = (
        *("fit", str(table), "--law", "hoffmann", "--bootstrap", "60", "--against", "gadre", "--against", "power-law"),
        *("--bind", "C=flops", "--profile", "alpha", "--approaches", "1e21", "--where", "loss < 60"),
    )
    code, out, err = run(*asked, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert {each["law"] for each in data["against"]["scores"]} == {"hoffmann", "gadre", "power-law"}
    assert data["profiles"][0]["low"] < data["parameters"]["alpha"]["value"] < data["profiles"][0]["high"]
    assert [each["approach"][0] for each in data["approaches"]] == ["1", "2", "3"]
    assert data["conspicuous_runs"][0]["row"] == 21 and data["conspicuous_runs"][0]["outlier"]
    assert data["data"]["where"] == "loss < 60"
    code, out, err = run(*asked)
    assert code == 0 and "laws by backtest" in out and "profile likelihood" in out and "approach" in out, err
    third = data["approaches"][2]["note"]
    assert third.endswith(" runs") and f"3 parametric: {third}" in out


def test_a_formula_of_ones_own(table: Path) -> None:
    code, out, err = run(
        *("fit", str(table), "--law", "E + A*N**a + B/D**b", "--bind", "N=`Their Size`", "--bind", "D=tokens"),
        *("--real", "a", "--start", "A=400", "--bootstrap", "0", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["parameters"]["a"]["value"] < 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "hofmann"], "did you mean 'hoffmann'"),
        (["--law", "E + A[0]/N", "--bind", "N=tokens"], "not allowed"),
        (["--law", "E + A/__import__('os')", "--bind", "N=tokens"], "not allowed"),
        (["--law", "hoffmann", "--bind", "N=`Their Sise`"], "did you mean 'Their Size'"),
        (["--law", "hoffmann", "--bind", "N"], "not NAME=VALUE"),
        (["--law", "hoffmann", "--fix", "E=low"], "'low' is not a number"),
        (["--law", "hoffmann", "--where", "lossy < 3"], "did you mean 'loss'"),
        (["--law", "hoffmann", "--where", "loss < 0"], "no row meets"),
        (["--law", "hoffmann", "--at", "C=-1"], "C is -1"),
        (["--law", "hoffmann", "--objective", "mse"], "no objective 'mse'"),
        (["--law", "moe-power"], "no column 'activation_ratio'"),
    ],
)
def test_mistakes_leave_with_2_and_one_sentence(table: Path, arguments: list[str], words: str) -> None:
    code, _, err = run("fit", str(table), "--bootstrap", "0", *arguments)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public run tables are not beside the repository")
def test_the_chinchilla_table() -> None:
    code, out, err = run(
        *("fit", str(SHARED / "epoch_chinchilla" / "svg_extracted_data.csv"), "--law", "hoffmann"),
        *("--bind", "N=`Model Size`", "--bind", "D=`Training FLOP`/(6*`Model Size`)", "--bind", "loss=loss"),
        *("--where", "loss < 3.4245", "--bootstrap", "200", "--json"),
    )
    assert code == 0, err
    data = json.loads(out)
    assert data["n_runs"] == 240
    assert data["objective"]["value"] <= 1.0182740178007e-3


def test_laws_list_show_eval_and_compare() -> None:
    code, out, _ = run("laws", "list", "--json")
    names = {law["name"] for law in json.loads(out)}
    assert code == 0 and {"hoffmann", "moe-bits", "clark", "joint-moe", "efficiency-leverage", "tao-loss"} <= names
    for name in (*sorted(names), "besiroglu"):
        assert run("laws", "show", name)[0] == 0
        assert json.loads(run("laws", "show", name, "--json")[1])["formula"]
    code, out, _ = run("laws", "eval", "besiroglu", "--set", "N=7e9", "--set", "D=2e12", "--json")
    answer = json.loads(out)
    assert set(answer) == {"law", "value", "unit", "in_range", "warnings"}
    assert answer["value"] == pytest.approx(2.0647, abs=1e-4) and answer["in_range"] is False
    assert run("laws", "eval", "tian-leverage", "--set", "A=0.031", "--set", "G=12", "--set", "C=1e22")[0] == 0
    code, out, _ = run("laws", "compare", "--flops", "2.55e24", "--json")
    opinions = {each["name"]: each for each in json.loads(out)["opinions"]}
    for name, size, tokens in (
        ("tian-moe", 86.9e9, 4.89e12),
        ("hunyuan", 52.3e9, 5.11e12),
        ("deepseek", 179e9, 2.38e12),
        ("tian-dense", 187e9, 2.27e12),
        ("besiroglu", 155e9, 2.74e12),
        ("hoffmann", 63e9, 6.74e12),
        ("joint-moe, E=32", 404e9, 1.05e12),
    ):
        assert opinions[name]["params"] == pytest.approx(size, rel=0.01)
        assert opinions[name]["tokens"] == pytest.approx(tokens, rel=0.01)
    assert run("laws", "compare", "--flops", "2.55e24")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "hofman"], "did you mean"),
        (["eval", "besiroglu", "--set", "N=7e9"], "needs variable D"),
        (["eval", "besiroglu", "--set", "N=big", "--set", "D=1e9"], "'big' is not a number"),
        (["compare", "--flops", "0"], "above 0"),
    ],
)
def test_mistakes_about_laws(arguments: list[str], words: str) -> None:
    code, _, err = run("laws", *arguments)
    assert code == 2
    assert words in err


def test_without_a_bootstrap_no_interval_is_shown(table: Path) -> None:
    code, out, _ = run("fit", str(table), "--law", "hoffmann", "--bootstrap", "0", "--at", "C=1e22")
    assert code == 0 and "no bootstrap" in out
    for name in (*TRUTH, "size_exponent"):
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert "none asked" in line and " to " not in line


def test_progress_of_backtests_only_grows_and_ends_whole(table: Path) -> None:
    seen: list[float] = []
    fits.compare_laws(
        ["hoffmann", "kaplan"], pd.read_csv(table), progress=lambda done, total: seen.append(done / total)
    )
    assert seen == sorted(seen) and seen[-1] == 1
