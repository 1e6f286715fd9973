"""Every help screen: within 80 columns, whole sentences, `--json` wherever something is printed, completion."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from scaling.cli import app
from tests.scaling.commands.test_examples import COMMANDS

GROUPS = [name for name, each in vars(get_command(app))["commands"].items() if hasattr(each, "commands")]


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


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    inherited = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "scaling", *arguments]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env=inherited | {"TERM": "xterm"} | environment
    ):
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65536):
                written += block
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    return written.decode()


def test_a_terminal_gets_colour_and_whole_words_a_pipe_gets_neither() -> None:
    text = on_a_terminal("laws", "show", "clark")
    assert "\x1b[1m" in text
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()
    assert max(map(len, lines)) <= 80
    piped = CliRunner().invoke(app, ["laws", "show", "clark"]).stdout
    assert "\x1b[" not in piped and piped.splitlines()[0] in " ".join(line.strip() for line in lines)
    assert "\x1b[3" not in on_a_terminal("laws", "show", "clark", NO_COLOR="1")
