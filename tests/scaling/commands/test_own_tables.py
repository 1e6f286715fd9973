"""One's own run table, all the way to a plan: whatever fit takes, plan takes."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import fits
from fits.errors import UserError
from fits.laws import list_laws
from fits.laws.expression import as_written, evaluate, names, parse
from scaling.cli import app
from scaling.plan import TrainingPlan
from scaling.planner.loss_model import Text, fitted_loss_model
from scaling.planner.planner import plan_for
from trainer_small.ladder import Experts, Family

ROWS = 60
VOCABULARY = 50304
LOSS_LAWS = [
    law.name
    for law in list_laws()
    if law.response in ("loss", "bits_per_byte") and {"N", "W"} & {*law.variable_names}
    if {"D", "H"} & {*law.variable_names} and law.name not in ("tao-loss",)
]
THEIRS = {
    "params_active_non_embedding": "config.n_params_nonemb",
    "params_total_non_embedding": "params/total non-emb",
    "params_active": "Active Params",
    "params_total": "total_parameters",
    "tokens": "train/tokens seen",
    "train_bytes": "data [bytes]",
    "num_experts": "moe.num_experts",
    "experts_per_token": "top-k",
    "num_shared_experts": "nSharedExperts",
    "granularity": "G",
    "hidden_size": "d_model",
    "num_layers": "config.n_layers",
    "vocab_size": "vocab size",
    "unique_tokens": "unique tokens",
}


@functools.cache
def runs() -> pd.DataFrame:
    """Shapes of the ladder, trained long and short, in our columns; the loss is made for each law."""
    rng = np.random.default_rng(5)
    family, rows = Family(), []
    for _ in range(ROWS):
        width = int(rng.choice([256, 320, 384, 512, 640, 768]))
        experts = Experts(
            num_experts=int(rng.choice([8, 16, 32, 64])), experts_per_token=int(rng.choice([1, 2, 4])),
            num_shared_experts=int(rng.choice([0, 1])), granularity=float(rng.choice([2, 4, 8])),
        )  # fmt: skip
        shape = family.shape(width, int(rng.integers(6, 20)), experts, VOCABULARY)
        row = {name: float(getattr(shape, name)) for name in THEIRS if hasattr(shape, name)}
        row["params_total_non_embedding"] = float(shape.params_total_non_embedding)
        row["activation_ratio"] = shape.activation_ratio
        row["tokens"] = float(round(row["params_active"] * np.exp(rng.uniform(np.log(5), np.log(300)))))
        row["train_bytes"] = 4.3 * row["tokens"]
        row["unique_tokens"] = round(row["tokens"] / rng.choice([1, 1, 4]))
        rows.append(row)
    return pd.DataFrame(rows)


def true_values(law: fits.Law) -> dict[str, float]:
    """Coefficients in the middle of where the law's are, so that its loss is a loss."""
    found = {}
    for each in law.parameters:
        low, high = each.typical
        found[each.name] = float(np.sqrt(low * high)) if low > 0 else 0.5 * (low + high)
    return found


def styled(style: str, column: str) -> tuple[str, Callable[[Any], Any], str]:
    """Their name for one of our columns, what their numbers are, and how the column is bound."""
    theirs = THEIRS[column]
    if style == "ours":
        return column, lambda values: values, column
    if style == "billions" and column.startswith(("params", "tokens", "unique")):
        return f"{theirs} (B)", lambda values: values / 1e9, f"`{theirs} (B)`*1e9"
    if style == "units" and column.startswith(("params", "tokens", "unique")):
        return f"{theirs} (B)", lambda values: values / 1e9, f"{theirs} (B)"
    return theirs, lambda values: values, theirs


def their_table(law: fits.Law, style: str) -> tuple[pd.DataFrame, dict[str, str], dict[str, str]]:
    """The runs under other names, with the loss that the law gives them, the binding, and what it means."""
    table, frame, bind, means = runs(), pd.DataFrame(), {}, {}
    columns = {name: table[name].to_numpy() for name in table.columns}
    values = {}
    for variable in law.variables:
        assert variable.column is not None
        node = parse(variable.column)
        values[variable.name] = np.broadcast_to(evaluate(node, columns), ROWS)
        parts = names(node)
        written = variable.column
        for part in sorted(parts, key=len, reverse=True):
            if part == "activation_ratio":
                frame["act ratio"] = table[part]
                written = written.replace(part, "`act ratio`")
                continue
            name, change, how = styled(style, part)
            frame[name] = change(table[part])
            plain = how if written == part else how if "`" in how or "*" in how else as_written(how)
            written = written.replace(part, plain)
        bind[variable.name] = written
        means[variable.name] = variable.column
    frame["loss value"] = law.evaluate(true_values(law), values)
    if "tokens" not in " ".join(frame.columns):  # a law in bytes
        frame["tokens"] = table["tokens"]
    if VOCABULARY not in frame.to_numpy():
        frame["cfg.vocab_size"] = VOCABULARY
    return frame, bind | {"loss": "loss value"}, means


@pytest.fixture(scope="module")
def few_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "constraints.yaml"
    path.write_text(
        "hidden_size: [1024, 2048]\nnum_layers: [16, 24]\nnum_experts: [16, 32]\nexperts_per_token: [2]\n"
        "num_shared_experts: [0, 1]\ngranularity: [4, 8]\nactive_ffn_ratio: [0.2, 10]\n"
    )
    return path


@pytest.fixture(scope="module")
def one_routing(few_shapes: Path) -> Path:
    """For laws that do not see the experts."""
    path = few_shapes.with_name("one_routing.yaml")
    path.write_text(few_shapes.read_text().replace("num_experts: [16, 32]", "num_experts: [32]"))
    return path


@pytest.mark.parametrize("style", ["ours", "theirs", "billions", "units"])
@pytest.mark.parametrize("name", LOSS_LAWS)
def test_whatever_fit_takes_plan_takes(
    name: str, style: str, few_shapes: Path, one_routing: Path, tmp_path: Path
) -> None:
    law = fits.get_law(name)
    frame, bind, means = their_table(law, style)
    truth = true_values(law)
    free = law.parameter_names[0]  # what the law's numbers are is not asked here
    fix = {each: value for each, value in truth.items() if each != free}
    fitted = fits.fit(law, frame, bind=bind, bootstrap=20, fix=fix, duplicates="keep")
    assert set(fitted.means) == set(law.variable_names), fitted.warnings
    fitted.save(tmp_path / "law.json")
    space = few_shapes if fitted_loss_model(fitted).sees_experts else one_routing
    plan = plan_for(str(tmp_path / "law.json"), 1e20, constraints_file=space, unique_tokens=1e13)
    # The plan's loss is the law's at the plan's own counts, taken by the law's declaration and not by our names.
    loss_model = fitted_loss_model(fitted)
    text = Text(plan.sequence_length, 1e13, lambda size: 4.3)
    variables = loss_model.variables(plan.model, plan.tokens, text)
    for variable in law.variables:
        unit = fitted.unit_of(variable.name)
        column = means[variable.name]
        shape = {each: getattr(plan.model, each, None) for each in names(parse(column))}
        known = {"tokens": plan.tokens, "train_bytes": 4.3 * plan.tokens, "unique_tokens": min(plan.tokens, 1e13)}
        expected = evaluate(parse(column), {k: known.get(k, v) for k, v in shape.items()})
        assert float(variables[variable.name]) * unit == pytest.approx(float(expected), rel=1e-9), variable.name
    assert plan.prediction.value == pytest.approx(fitted.predict(**{k: float(v) for k, v in variables.items()}))
    assert plan.model.vocab_size == VOCABULARY


FORMULAS = st.sampled_from(
    ["E + A*x**-a + B*y**-b", "E + A/x**a*(1 + c*log(z)) + B/y**b", "exp(e - a*log(x) - b*log(y)) + E"]
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    formula=FORMULAS,
    size=st.sampled_from(["config.n_params_nonemb", "`n params (active)`*1e9", "2*d_model*`n layers`*d_model"]),
    data=st.sampled_from(["tokens.seen", "`tokens (B)`", "`steps`*`batch tokens`"]),
    given_meanings=st.booleans(),
    fixed=st.booleans(),
    constant=st.booleans(),
)
def test_a_law_of_one_s_own_plans(
    few_shapes: Path,
    one_routing: Path,
    tmp_path: Path,
    formula: str,
    size: str,
    data: str,
    given_meanings: bool,
    fixed: bool,
    constant: bool,
) -> None:
    table = runs()
    frame = pd.DataFrame(
        {
            "config.n_params_nonemb": table["params_active_non_embedding"],
            "n params (active)": table["params_active"] / 1e9,
            "d_model": table["hidden_size"],
            "n layers": table["num_layers"],
            "tokens.seen": table["tokens"],
            "tokens (B)": table["tokens"] / 1e9,
            "steps": table["tokens"] / 65536,
            "batch tokens": 65536,
            "E count": 16 if constant else table["num_experts"],
            "vocab": VOCABULARY,
        }
    )
    bind = {"x": size, "y": data} | ({"z": "E count"} if "z" in formula else {})
    means = {"y": "tokens"} if "steps" in data else {}
    if "z" in bind:
        means["z"] = "num_experts"
    if given_meanings:
        unit = "tokens/1e9" if "(B)" in data else "tokens"
        means |= {"x": "params_active_non_embedding", "y": unit}
    values = {name: fits.tables.runs.column_values(frame, text) for name, text in bind.items()}
    law = fits.custom_law(formula, list(bind), domains={"c": "real"} if "c" in formula.split("*log")[0] else {})
    truth = {"E": 1.7, "A": 300.0, "B": 400.0, "a": 0.3, "b": 0.28, "c": -0.01, "e": 5.0}
    frame["final loss"] = law.evaluate({name: truth[name] for name in law.parameter_names}, values)
    free = ("E", "A", "e") if not fixed else ("A", "e")
    fix = {name: truth[name] for name in law.parameter_names if name not in free}
    fitted = fits.fit(law, frame, bind=bind, loss="final loss", means=means, bootstrap=20, fix=fix, duplicates="keep")
    fitted.save(tmp_path / "law.json")
    space = few_shapes if fitted_loss_model(fitted).sees_experts else one_routing
    plan = plan_for(str(tmp_path / "law.json"), 1e20, constraints_file=space)
    assert plan.tokens > 0
    assert plan.prediction.value == pytest.approx(plan.prediction.curve[-1].value)


def test_what_fit_said_no_plan_can_know_is_refused_with_the_same_mend(tmp_path: Path) -> None:
    frame = runs().assign(seed=np.arange(ROWS) % 7 + 1)
    frame["loss"] = 1.7 + 300 * frame["params_active"] ** -0.3 + 400 * frame["tokens"] ** -0.28
    law = fits.fit("hoffmann", frame, bind={"N": "seed*1.0"}, bootstrap=20, duplicates="keep")
    assert any("N (bound to seed*1.0) is nothing that a plan can know" in warning for warning in law.warnings)
    law.save(tmp_path / "law.json")
    with pytest.raises(UserError, match="--means N=COLUMN"):
        plan_for(str(tmp_path / "law.json"), 1e20)


@pytest.mark.parametrize("experts", [None, 0])
def test_a_law_of_total_parameters_from_dense_runs_plans_a_dense_model(experts: int | None, tmp_path: Path) -> None:
    frame = runs()[["params_total", "tokens"]].assign(vocab_size=VOCABULARY)
    frame["loss"] = 1.7 + 300 * frame["params_total"] ** -0.3 + 400 * frame["tokens"] ** -0.28
    if experts is not None:
        frame["num_experts"] = experts
    fits.fit("hoffmann", frame, bind={"N": "params_total"}, bootstrap=20, duplicates="keep").save(tmp_path / "law.json")
    plan = plan_for(str(tmp_path / "law.json"), 1e20)
    assert not plan.model.is_moe
    assert any("says nothing of experts" in warning for warning in plan.warnings) == (experts is None)


def test_an_option_given_twice_is_refused(tmp_path: Path) -> None:
    logged_runs().to_csv(tmp_path / "runs.csv", index=False)
    given = ("--bind", "N=params (active, non-emb) [B]", "--bind", "N=tokens (B)")
    result = CliRunner().invoke(app, ["fit", str(tmp_path / "runs.csv"), "--law", "hoffmann", *given])
    assert result.exit_code == 2
    assert "--bind gives N twice" in result.output


def test_a_report_is_of_the_rows_that_were_fitted(tmp_path: Path) -> None:
    frame = logged_runs().rename(columns={"eval/loss (nats)": "loss"})
    frame.loc[5, "loss"] = 50.0
    frame.to_csv(tmp_path / "runs.csv", index=False)
    bind = ("--bind", "N=params (active, non-emb) [B]", "--bind", "D=tokens (B)")
    arguments = ["fit", str(tmp_path / "runs.csv"), "--law", "hoffmann", *bind, "--where", "loss < 20"]
    for words, out in (([*arguments, "--bootstrap", "30"], "law.json"), (["report", str(tmp_path)], "report.html")):
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert "sweep-006" in page and "sweep-005" not in page


def test_a_law_without_draws_says_so(tmp_path: Path) -> None:
    frame = runs().assign(loss=lambda each: 1.7 + 300 * each["params_active"] ** -0.3 + 400 * each["tokens"] ** -0.28)
    fits.fit("hoffmann", frame, bootstrap=0, duplicates="keep").save(tmp_path / "law.json")
    with pytest.raises(UserError, match="--bootstrap 1000"):
        plan_for(str(tmp_path / "law.json"), 1e20)


@pytest.mark.parametrize(("law", "words"), [("power-law", "not the size of a model"), ("batch-data", "no loss")])
def test_a_law_that_chooses_nothing_says_so(law: str, words: str, tmp_path: Path) -> None:
    frame = runs()
    frame["train_flops"] = 6 * frame["params_active"] * frame["tokens"]
    frame["loss"], frame["batch_tokens"] = 1.7 + 400 * frame["train_flops"] ** -0.1, frame["tokens"] ** 0.5
    fits.fit(law, frame, bootstrap=20, duplicates="keep").save(tmp_path / "law.json")
    with pytest.raises(UserError, match=words):
        plan_for(str(tmp_path / "law.json"), 1e20)


def logged_runs(loss: str = "eval/loss (nats)", seed: int = 11) -> pd.DataFrame:
    """Forty MoE runs as a tracker exports them: dots, slashes, blanks, brackets, billions, and one that crashed."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(40):
        width, depth = int(rng.choice([512, 768, 1024, 1280])), int(rng.choice([8, 12, 16]))
        experts = Experts(
            num_experts=int(rng.choice([16, 32, 64])), experts_per_token=int(rng.choice([2, 4])),
            num_shared_experts=1, granularity=4.0,
        )  # fmt: skip
        shape = Family().shape(width, depth, experts, VOCABULARY)
        tokens = shape.params_active * np.exp(rng.uniform(np.log(10), np.log(200)))
        size, sparsity = shape.params_active_non_embedding, 1 / shape.activation_ratio
        value = 1.65 + 380 * size**-0.33 * sparsity**-0.1 + 400 * tokens**-0.28
        rows.append(
            {
                "Name": f"sweep-{number:03d}",
                "ID": f"{number:03d}",
                "State": "finished",
                "Created": "2026-11-27T10:00:00.000Z",
                "config.model.d_model": width,
                "config.model.vocab_size": VOCABULARY,
                "config/seq len": 2048,
                "moe.n_experts": experts.num_experts,
                "moe.top_k": experts.experts_per_token,
                "params (active, non-emb) [B]": size / 1e9,
                "tokens (B)": tokens / 1e9,
                "moe granularity": 4,
                loss: value * np.exp(0.002 * rng.standard_normal()),
            }
        )
    rows[12] |= {"State": "crashed", loss: 7.91}
    return pd.DataFrame(rows)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_road_from_a_logger_s_table_to_plan_export_and_report(tmp_path: Path, ending: str) -> None:
    def scaling(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, f"scaling {arguments}\n{result.output}"
        return " ".join(result.output.split())

    table, law, plan = tmp_path / f"wandb export.{ending}", tmp_path / "law.json", tmp_path / "plan.yaml"
    fits.tables.files.write_table(logged_runs(), table)
    said = scaling(
        "fit", str(table), "--law", "moe-power", "--bind", "N=params (active, non-emb) [B]", "--bind", "D=tokens (B)",
        "--bind", "S=(moe.n_experts+1)/(moe.top_k+1)", "--bind", "G=`moe granularity`",
        "--bind", "loss=eval/loss (nats)", "--means", "S=1/activation_ratio", "--bootstrap", "60", "--out", str(law),
    )  # fmt: skip
    assert "39 runs" in said and "left out: 1 crashed" in said and "gamma=0 is fixed" in said
    fitted = fits.Fit.load(law)
    assert fitted.means == {
        "N": "params_active_non_embedding/1e9",
        "D": "tokens/1e9",
        "S": "1/activation_ratio",
        "G": "granularity",
    }
    assert fitted.constants == {"vocab_size": VOCABULARY, "sequence_length": 2048, "granularity": 4}
    assert fitted.values["delta"] == pytest.approx(0.1, abs=0.03)
    scaling("plan", "--law", str(law), "--flops", "1e22", "--max-params-total", "60e9", "--out", str(plan))
    made = TrainingPlan.load(plan)
    assert (made.model.vocab_size, made.sequence_length, round(made.model.granularity)) == (VOCABULARY, 2048, 4)
    promised = 1.65 + 380 * made.model.params_active_non_embedding**-0.33 * (1 / made.model.activation_ratio) ** -0.1
    promised += 400 * made.tokens**-0.28
    assert made.prediction.value == pytest.approx(promised, rel=0.02)
    scaling("export", str(plan), "--stack", "hf", "--out", str(tmp_path / "configs"))
    assert (tmp_path / "configs" / "config.json").is_file()
    scaling("report", str(tmp_path), "--out", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "sweep-005" in page and "sweep-012" not in page
    assert "could not be shown" not in page


def test_a_table_s_outlier_is_named_as_in_the_file(tmp_path: Path) -> None:
    frame = logged_runs()
    frame.loc[29, "eval/loss (nats)"] *= 1.15
    frame.to_csv(tmp_path / "runs.csv", index=False)
    same = f"moe.top_k == {frame.loc[29, 'moe.top_k']}"
    bind = ("N=params (active, non-emb) [B]", "D=tokens (B)", "loss=eval/loss (nats)")
    arguments = ["fit", str(tmp_path / "runs.csv"), "--law", "hoffmann", "--where", same, "--bootstrap", "0"]
    result = CliRunner().invoke(app, [*arguments, *(word for each in bind for word in ("--bind", each))])
    assert result.exit_code == 0, result.output
    assert re.search(r"^\s*30\s+sweep-029\s", result.output, re.M), result.output
