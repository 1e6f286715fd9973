"""`scaling sweep ...` as a user types it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fits.runs import read_runs
from scaling.cli import Commands
from scaling.commands import sweep as sweep_commands
from trainer_small.config import RunSpec
from trainer_small.sweep import Sweep

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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cost", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "nowhere.yaml", "--out", "runs"], "nowhere.yaml"),
        (["run-one", "nowhere"], "nowhere"),
        (["status", "nowhere"], "holds no runs"),
        (["table", "nowhere", "--out", "runs.csv"], "holds no runs"),
        (
            [
                "design",
                "--corpus",
                "c",
                "--study",
                "s",
                "--vocab-sizes",
                "many",
                "--budget-flops",
                "1",
                "--out",
                "s.yaml",
            ],
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


def test_every_command_shows_an_example_that_parses() -> None:
    group = typer.main.get_command(app)
    for name in ("design", "cost", "run", "run-one", "status", "table"):
        command = group.commands["sweep"].commands[name]  # type: ignore[attr-defined]
        example = re.search(rf"Example: scaling sweep {name} (.+)", command.help)
        assert example, command.help
        command.make_context(name, example.group(1).split())
