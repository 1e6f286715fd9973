"""`scaling sweep ...` as a user types it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from fits.tables.runs import read_runs, write_runs
from scaling.cli import Commands
from scaling.commands import sweep as sweep_commands
from trainer_small.config import RunSpec
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import planned_row

app = typer.Typer(cls=Commands)
sweep_commands.register(app)


@app.callback()
def main(debug: bool = False) -> None:
    del debug


def _call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture
def sweep_file(corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]) -> Path:
    tokenizer = os.path.relpath(corpus / "tokenizer.json", tmp_path)
    runs = (run_spec("a"), run_spec("b", seed=1))
    sweep = Sweep(name="tiny", corpus=os.path.relpath(corpus, tmp_path), tokenizers={512: tokenizer}, runs=runs)
    sweep.save(tmp_path / "sweep.yaml")
    return tmp_path / "sweep.yaml"


def test_the_road_from_a_sweep_file_to_a_run_table(sweep_file: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "runs", tmp_path / "runs.csv"
    cost = json.loads(_call("cost", sweep_file, "--json"))
    assert cost["train_flops"] == sum(run["train_flops"] for run in cost["runs"]) > 0
    assert "2 runs" in _call("cost", sweep_file)
    assert "2 done" in _call("run", sweep_file, "--out", out, "--workers", 1)
    assert json.loads(_call("run", sweep_file, "--out", out, "--json"))["counts"] == {"done": 2}
    status = json.loads(_call("status", out, "--json"))
    assert [run["run_id"] for run in status["runs"]] == ["a", "b"]
    assert "done" in _call("status", out)
    assert json.loads(_call("run-one", out / "a", "--json"))["status"] == "done"
    assert "bits per byte" in _call("run-one", out / "a")
    _call("table", out, "--out", table)
    assert len(read_runs(table)) == 2
    assert json.loads(_call("table", out, "--out", table, "--json"))["runs"] == {"done": 2}


def test_a_design_is_within_its_budget_and_can_be_read_back(corpus: Path, tmp_path: Path) -> None:
    for size in (400, 500):
        folder = tmp_path / "study" / "tokenizers" / str(size)
        folder.mkdir(parents=True)
        shutil.copy(corpus / "tokenizer.json", folder)
    arguments = ["design", "--corpus", corpus, "--study", tmp_path / "study", "--vocab-sizes", "400,500"]
    out = tmp_path / "sub" / "sweep.yaml"
    cost = json.loads(_call(*arguments, "--budget-flops", "2e13", "--out", out, "--json"))
    assert 1e13 < cost["train_flops"] <= 2e13
    sweep = Sweep.load(out)
    assert (out.parent / sweep.corpus).resolve() == corpus.resolve()
    assert all((out.parent / path).is_file() for path in sweep.tokenizers.values())
    (recipe := tmp_path / "recipe.yaml").write_text("training: {optimizer: muon}\ndtype: bfloat16\n", encoding="utf-8")
    _call(*arguments, "--budget-flops", "2e13", "--out", out, "--recipe", recipe)
    assert {(run.training.optimizer, run.dtype) for run in Sweep.load(out).runs} == {("muon", "bfloat16")}
    output = _call(*arguments, "--budget-flops", "2e13", "--out", tmp_path / "no.yaml", "--recipe", out, code=2)
    assert "is each run's own" in output and not (tmp_path / "no.yaml").exists()


def test_named_designs_their_cost_and_the_next_runs(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "tokenizers" / "400"
    folder.mkdir(parents=True)
    shutil.copy(corpus / "tokenizer.json", folder)
    common = ["--corpus", corpus, "--study", tmp_path / "study", "--vocab-sizes", 400]
    out = tmp_path / "sweep.yaml"
    arguments = ["design", *common, "--law", "hoffmann", "--hidden-sizes", "32,48,64", "--budget-flops", "2e13"]
    text = _call(*arguments, "--out", out)
    assert "shared trunks save" in text and max(map(len, text.splitlines()[:-1])) <= 90
    answer = json.loads(_call("cost", out, "--gpu", "h200", "--json"))
    walls = list(answer["wall_seconds_by_workers"].values())
    assert walls == sorted(walls, reverse=True) and answer["device_hours"] == pytest.approx(walls[0] / 3600)
    assert answer["train_flops_spent"] < 0.6 * answer["train_flops"] and answer["largest_memory_bytes"] > 1e6
    assert "utilisation" in _call("cost", out, "--gpu", "h200")
    assert json.loads(_call("cost", out, "--no-measure", "--json"))["speed"] is None
    frame = pd.DataFrame([planned_row(run) for run in Sweep.load(out).runs])
    noise = np.random.default_rng(0).normal(0, 0.005, len(frame))
    frame["loss"] = (1.7 + 30 * frame["params_active"] ** -0.3 + 300 * frame["tokens"] ** -0.35) * np.exp(noise)
    write_runs(frame.assign(status="done"), tmp_path / "runs.csv")
    more = [
        *arguments[:-1],
        "1e14",
        "--known",
        tmp_path / "runs.csv",
        "--decide",
        "C=1e16",
        "--out",
        tmp_path / "n.yaml",
    ]
    chosen = json.loads(_call(*more, "--json"))
    assert chosen["decision"]["standard_error_then"] < chosen["decision"]["standard_error_now"]
    assert chosen["train_flops_spent"] <= 1e14


@pytest.mark.slow
def test_a_script_for_sbatch_and_several_folders(sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    text = _call("run", sweep_file, "--out", out, "--engine", "sbatch", "--slurm", "partition=gpu")
    assert "submit it with: sbatch" in text and "--partition=gpu" in (out / "sweep.sbatch").read_text()
    assert json.loads(_call("status", out, "--json"))["counts"] == {"queued": 2}
    assert "2 queued" in _call("status", out, "--all")
    assert "2 done" in _call("run-one", out / "a", out / "b", "--at-once", 2)
    assert "2 done" in _call("status", out, "--watch")
    assert "nothing is left" in _call("run", sweep_file, "--out", out, "--engine", "sbatch")


def _design_of(vocab_sizes: str) -> list[str]:
    text = f"design --corpus c --study s --vocab-sizes {vocab_sizes} --budget-flops 1 --out s.yaml"
    return text.split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cost", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "nowhere.yaml", "--out", "runs"], "nowhere.yaml"),
        (["run-one", "nowhere"], "nowhere"),
        (["run", "s.yaml", "--engine", "slrum"], "did you mean 'slurm'"),
        (["run", "s.yaml", "--threads", "0"], "threads is 0"),
        (["cost", "s.yaml", "--utilisation", "0.3"], "--gpu"),
        (
            _design_of("8"),
            "s is no finished study",
        ),
        (
            _design_of("8.5"),
            "--vocab-sizes is '8.5'",
        ),
        (["status", "nowhere"], "holds no runs"),
        (["table", "nowhere", "--out", "runs.csv"], "holds no runs"),
        (
            _design_of("many"),
            "'many'",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = _call(*arguments, code=2)
    assert words in output and output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
