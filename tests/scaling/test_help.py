"""Every help screen: within 80 columns, whole sentences, `--json` wherever something is printed, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from scaling.cli import app
from tests.scaling.test_examples import COMMANDS

GROUPS = [name for name, each in get_command(app).commands.items() if hasattr(each, "commands")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["", *GROUPS, *COMMANDS])
def test_it_fits_80_columns_and_nothing_is_cut(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}, terminal_width=80)
    assert result.exit_code == 0
    wide = [line for line in result.stdout.splitlines() if len(line) > 80]
    assert not wide, wide
    assert "..." not in result.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_speak_json(name: str) -> None:
    assert "--json" in [option for parameter in COMMANDS[name].params for option in parameter.opts]


def test_the_top_names_the_exit_codes_and_lists_the_road_in_order() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    for code in ("0 done", "1 some runs", "2 a mistake", "130 stopped"):
        assert code in " ".join(text.split())
    commands = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line[:3].strip()]
    assert commands[:4] == ["demo", "corpus", "vocab", "sweep"] and commands[-1] == "doctor"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_commands(shell: str) -> None:
    """What docs/command_line.md says: the script of a shell, and the completion it asks for."""
    words = {"COMP_WORDS": "scaling sw", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "scaling sw"}
    words["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    environment = os.environ | words | {"_SCALING_COMPLETE": f"complete_{shell}"}
    command = str(Path(sys.executable).with_name("scaling"))
    if not Path(command).exists():
        pytest.skip("the scaling script is not beside this Python")
    done = subprocess.run([command], env=environment, capture_output=True, text=True, timeout=60)
    assert "sweep" in done.stdout


def test_colours_are_for_terminals_only() -> None:
    result = CliRunner().invoke(app, ["laws", "list"])
    assert result.exit_code == 0 and "\x1b[" not in result.stdout
