"""The example in each command's help runs as it stands, in a folder that has the files it names."""

import re
import shlex
import shutil

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from scaling.cli import app
from scaling.track.simulate import drawn_log
from tests.scaling.big_runs import promised_plan
from tests.scaling.plans import PROXY, training_plan
from tests.scaling.report.report_folder import made_once
from trainer_small.architecture import Architecture

TRAINED_ELSEWHERE = {"demo", "export-run", "sweep run", "sweep run-one", "sweep status", "sweep table"}
"""Commands that train or look at trained runs: their examples are run where runs are made."""
FETCHES = {"data get"}
"""Commands that need the internet."""


def _commands(command, path=()):
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(_commands(get_command(app)))


def _example(name: str) -> list[str]:
    text = (COMMANDS[name].help or "").replace("\\\n", " ")  # one line, where it is broken for the screen
    found = re.search(r"Example:\s+scaling (.+)", text)
    assert found, f"the help of '{name}' has no example"
    return shlex.split(found.group(1))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_of_itself(name):
    assert _example(name)[: len(name.split())] == name.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(made_once(base), folder, dirs_exist_ok=True)
    shutil.copytree(folder, folder / "demo_out")
    training_plan(Architecture.model_validate(PROXY)).save(folder / "plan.yaml")
    arguments = ["export", str(folder / "plan.yaml"), "--stack", "hf", "--out", str(folder)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (folder / "config.json").exists()
    for name in ("corpus", "study"):
        shutil.rmtree(folder / name)
    return folder


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in TRAINED_ELSEWHERE | FETCHES])
def test_the_example_runs(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if name.startswith("vocab") or name == "sweep design":
        for needed in ("corpus", "vocab study"):
            if not (folder / needed.split()[-1]).exists():
                assert CliRunner().invoke(app, _example(needed)).exit_code == 0
    if name == "check" and not (folder / "main_run").exists():
        assert CliRunner().invoke(app, _example("export")).exit_code == 0
    if name == "track":
        (folder / "big_run").mkdir()
        monkeypatch.chdir(folder / "big_run")
        plan = promised_plan()
        plan.save("plan.yaml")
        drawn_log(plan, np.random.default_rng(0), until=0.5).to_csv("metrics.csv", index=False)
    result = CliRunner().invoke(app, _example(name))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
