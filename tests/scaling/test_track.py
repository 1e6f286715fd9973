"""Is the big run on its curve: the alarm keeps its rate, a worse run is seen, and logs are read as they come."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.cli import Commands
from scaling.commands import track as track_command
from scaling.plan import TrainingPlan
from scaling.track.compare import Comparison, compare
from scaling.track.log import Log, read_log
from scaling.track.simulate import Truth, drawn_log
from tests.scaling.big_runs import promised_plan
from tests.scaling.plans import PROXY, training_plan

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
track_command.register(app)

PLAN = promised_plan(law_sd=0.0025, run_sd=0.002)


def look(plan: TrainingPlan, table: pd.DataFrame, path: Path, **options: object) -> Comparison:
    table.to_csv(path, index=False)
    return compare(plan, read_log(path, plan), **options)  # type: ignore[arg-type]


def on_curve(rows: int = 300, until: float = 0.5) -> pd.DataFrame:
    """A run exactly on the curve with the usual gap, and noise."""
    quiet = promised_plan(law_sd=0.0, run_sd=0.0)
    return drawn_log(quiet, np.random.default_rng(3), until=until, rows=rows, truth=Truth(gap=0.03))


def test_the_alarm_keeps_its_rate_and_sees_a_worse_run() -> None:
    rng = np.random.default_rng(0)
    fired = {1.0: 0, 1.01: 0, 1.02: 0}
    trials, ends, detectable = 200, 0, []
    for factor in fired:
        for _ in range(trials):
            table = drawn_log(PLAN, rng, until=0.5, rows=200, branches=5, truth=Truth(factor=factor))
            table = table.assign(tokens=table["step"] * PLAN.batch_tokens).sort_values("tokens")
            columns = (table["tokens"], table["val_loss"], table["decayed"].astype(bool))
            found = compare(PLAN, Log(*(column.to_numpy() for column in columns), (), False, True))
            fired[factor] += found.verdict != "on the curve"
            detectable.append(found.detectable)
            ends += factor == 1.0 and found.end_high - found.end_low < found.promised_high - found.promised_low
    # 200 draws of 5 % lie in 1.5 to 9.5 % all but once in a thousand times; the benchmark has more draws.
    assert 0.01 <= fired[1.0] / trials <= 0.11
    assert fired[1.01] / trials >= 0.65  # said to be seen with 80 % at 0.98 %
    assert fired[1.02] / trials >= 0.99
    assert np.mean(detectable) == pytest.approx(0.0098, rel=0.05)
    assert ends == trials  # the log always narrows the promise


def test_undecayed_rows_alone_say_little_and_say_so(tmp_path: Path) -> None:
    found = look(PLAN, on_curve(), tmp_path / "a.csv")
    assert found.verdict == "on the curve" and found.detectable is not None and found.detectable > 0.03
    assert any("the gap to a decayed run is taken as" in note for note in found.notes)
    known = look(PLAN, on_curve(), tmp_path / "b.csv", gap=(0.03 * found.promised, 0.001))
    assert known.detectable is not None and known.detectable < found.detectable / 3


def test_thousands_of_correlated_rows_are_few_facts(tmp_path: Path) -> None:
    few, many = (look(PLAN, on_curve(rows=rows), tmp_path / "x.csv") for rows in (500, 5000))
    assert many.rows > 4000 and many.facts < many.rows / 8
    assert few.deviation_sd == pytest.approx(many.deviation_sd, rel=0.15)


def test_a_run_that_diverges_or_ends_in_nan(tmp_path: Path) -> None:
    table = on_curve()
    table.loc[table.index[-30:], "val_loss"] += np.linspace(0, 3, 30)
    assert look(PLAN, table, tmp_path / "a.csv").verdict == "diverged"
    text = on_curve().to_csv(index=False) + "99999,nan,0\n"
    (tmp_path / "b.csv").write_text(text)
    log = read_log(tmp_path / "b.csv", PLAN)
    assert log.ends_in_nan and compare(PLAN, log).verdict == "diverged"


def test_spikes_are_left_out_and_named(tmp_path: Path) -> None:
    table = on_curve()
    clean = look(PLAN, table, tmp_path / "a.csv")
    table.loc[table.index[[100, 180]], "val_loss"] += 2.0
    spiky = look(PLAN, table, tmp_path / "b.csv")
    assert spiky.spikes == 2 and spiky.deviation == pytest.approx(clean.deviation, abs=1e-4)
    assert any("2 spikes left out" in note for note in spiky.notes)


def test_rows_out_of_order_repeated_or_empty_change_nothing(tmp_path: Path) -> None:
    table = on_curve()
    clean = look(PLAN, table, tmp_path / "a.csv")
    shuffled = table.sample(frac=1, random_state=0)
    assert look(PLAN, shuffled, tmp_path / "b.csv").deviation == pytest.approx(clean.deviation)
    with_empty = pd.concat([table, pd.DataFrame({"step": [5, 6], "val_loss": [np.nan, np.nan], "decayed": 0})])
    assert look(PLAN, with_empty, tmp_path / "c.csv").deviation == pytest.approx(clean.deviation)


def test_a_restart_drops_the_abandoned_stretch(tmp_path: Path) -> None:
    table = on_curve()
    stale = table.iloc[150:200].assign(step=table["step"].iloc[150:200] + 7, val_loss=9.0)
    restarted = pd.concat([table.iloc[:150], stale, table.iloc[150:]])
    found = look(PLAN, restarted, tmp_path / "a.csv")
    assert any("1 restart(s): 50 rows" in note for note in found.notes)
    assert found.deviation == pytest.approx(look(PLAN, table, tmp_path / "b.csv").deviation)


@pytest.mark.parametrize(
    ("rename", "scale"),
    [
        ({"step": "iteration", "val_loss": "lm loss"}, 1),
        ({"step": "_step", "val_loss": "train/loss"}, 1),
        ({"step": "consumed_tokens", "val_loss": "loss"}, PLAN.batch_tokens),
        ({"step": "consumed samples", "val_loss": "Validation Loss"}, PLAN.batch_size),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_columns_by_the_names_that_stacks_write(rename: dict, scale: int, ending: str, tmp_path: Path) -> None:
    table = on_curve()
    clean = look(PLAN, table, tmp_path / "clean.csv")
    other = table.assign(step=table["step"] * scale).rename(columns=rename)
    path = tmp_path / f"log.{ending}"
    if ending == "csv":
        other.to_csv(path, index=False)
    else:
        path.write_text("\n".join([*other.to_json(orient="records", lines=True).splitlines(), '{"grad_norm": 1.0}']))
    assert compare(PLAN, read_log(path, PLAN)).deviation == pytest.approx(clean.deviation)


def test_steps_of_a_batch_ramp_are_fewer_tokens(tmp_path: Path) -> None:
    batch = PLAN.batch_tokens
    ramp = {"start_batch_tokens": batch // 4, "increment_tokens": batch // 4, "ramp_tokens": 300 * batch}
    plan = promised_plan(batch_ramp=ramp)
    pd.DataFrame({"step": [400, 600, 733, 2000], "loss": 3.0}).to_csv(tmp_path / "a.csv", index=False)
    # A third of the ramp at each of 1/4, 2/4 and 3/4 of the batch: 400, 200 and 133 1/3 steps.
    tokens = read_log(tmp_path / "a.csv", plan).tokens / batch
    assert tokens == pytest.approx([100, 200, 299.75, 300 + 2000 - 733 - 1 / 3])


@pytest.mark.parametrize(
    ("unit", "factor"), [("bits per token", 1.4427), ("bits per byte", 1.4427 / 4.4), ("perplexity", None)]
)
def test_another_unit_is_told_from_a_bad_run(unit: str, factor: float | None, tmp_path: Path) -> None:
    table = on_curve()
    table["val_loss"] = np.exp(table["val_loss"]) if factor is None else table["val_loss"] * factor
    with pytest.raises(UserError, match=f"look like {unit}, and the plan is in nats per token"):
        look(PLAN, table, tmp_path / "a.csv")
    bad = on_curve()
    bad["val_loss"] *= 1.15
    assert look(PLAN, bad, tmp_path / "b.csv").verdict == "above the curve"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table"),
        ("a,b\n1,2\n", "no column of the usual names (tokens, tokens_seen"),
        ("step,b\n1,2\n", "give --loss-column"),
        ("step,loss\nx,y\n", "no row has both a number in 'step' and one in 'loss'"),
        ("step,loss\n-5,2.0\n", "column 'step' has -5"),
    ],
)
def test_logs_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        read_log(tmp_path / "a.csv", PLAN)
    assert message in str(caught.value)


def test_a_plan_without_a_curve_and_a_run_too_young(tmp_path: Path) -> None:
    bare = training_plan(PROXY)
    with pytest.raises(UserError, match=r"prediction\.curve is missing"):
        look(bare, on_curve(), tmp_path / "a.csv")
    young = pd.DataFrame({"step": [1, 2, 3], "loss": [9.0, 8.0, 7.0]})
    found = look(PLAN, young, tmp_path / "b.csv")
    assert found.verdict == "too early" and found.end is None


def test_the_command(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.yaml")
    on_curve().to_csv(tmp_path / "m.csv", index=False)
    command = ["track", str(tmp_path / "plan.yaml"), str(tmp_path / "m.csv")]
    for ending in ("png", "svg"):
        done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / f"track.{ending}")])
        assert done.exit_code == 0, done.output
        assert "on the curve" in done.stdout and (tmp_path / f"track.{ending}").stat().st_size > 5000
        assert max(map(len, done.stdout.splitlines()[:8])) <= 80
    answer = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert answer["verdict"] == "on the curve" and answer["promised_low"] < answer["end"] < answer["promised_high"]
    wrong = CliRunner().invoke(app, [*command, "--out", "track.doc"])
    assert wrong.exit_code == 2 and "must end in .png, .svg or .pdf" in wrong.stderr
