"""The docs: their commands run, the others parse, their Python runs, their links lead somewhere, nothing is missing.

In a page, ``<!-- run -->`` before a block of ``sh`` or ``python`` says that it runs as it stands in a clone; a block of
``sh`` that does not says why: ``<!-- not run: reason -->``. Every block with ``scaling`` in it must at least parse.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fits.tables.columns import COLUMNS
from scaling.cli import app
from tests.places import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "engines").glob("*.md")])
BLOCK = re.compile(r"^(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<kind>[a-z]*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
SLOW = ("tutorial.md", "howto.md", "sweeps.md")
"""Pages that train, or run many commands."""


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(mark, kind, text) of every fenced block."""
    for found in BLOCK.finditer(page.read_text()):
        yield found["mark"] or "", found["kind"], found["text"]


def commands(text: str) -> Iterator[tuple[list[str], int]]:
    """The ``scaling`` commands of a block and the exit code that a comment beside one promises."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("scaling "):
            promised = re.search(r"# exit code (\d)", line)
            yield shlex.split(line, comments=True)[1:], int(promised[1]) if promised else 0


def to_run(page: Path) -> list[tuple[str, str]]:
    return [(kind, text) for mark, kind, text in blocks(page) if mark == "run"]


def page_id(page: Path) -> str:
    return page.name


RUN = [
    pytest.param(page, marks=pytest.mark.slow if page.name in SLOW else (), id=page.name)
    for page in PAGES
    if to_run(page)
]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_parses(page: Path) -> None:
    for mark, kind, text in blocks(page):
        if kind == "sh":
            assert mark == "run" or mark.startswith("not run: "), f"say whether this runs:\n{text}"
        for arguments, _ in commands(text):
            command, rest = get_command(app), arguments
            while hasattr(command, "commands") and not rest[0].startswith("-"):
                assert rest and rest[0] in command.commands, f"no such command: scaling {shlex.join(arguments)}"
                command, rest = command.commands[rest[0]], rest[1:]
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert given <= known, f"{given - known} in: scaling {shlex.join(arguments)}"


@pytest.mark.parametrize("page", RUN)
def test_what_is_marked_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    names: dict[str, object] = {}
    for kind, text in to_run(page):
        if kind == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        assert all(line.startswith(("scaling ", " ")) for line in text.splitlines() if line), text
        for arguments, code in commands(text):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == code, f"scaling {shlex.join(arguments)}\n{result.output}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        path, anchor = target
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {path}"
        if anchor and file.suffix == ".md":
            assert anchor in [_anchor(line) for line in file.read_text().splitlines() if line.startswith("#")]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    docs = ROOT / "docs"
    missing = [page.name for page in docs.rglob("*.md") if f"({page.relative_to(docs)}" not in index]
    assert missing == ["README.md"]


def test_every_benchmark_is_named() -> None:
    folder = ROOT / "benchmarks"
    scripts = [path for path in folder.rglob("*.py") if "__main__" in path.read_text()]
    cells = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "benchmarks.md").read_text(), re.M)
    named = re.findall(r"`([\w/]+\.py)`", " ".join(cells))
    assert sorted(named) == sorted(str(script.relative_to(folder)) for script in scripts)


def test_the_run_table_s_columns_are_listed() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    assert not [each.name for each in COLUMNS if f"| `{each.name}` | {each.meaning} | {each.unit} |" not in page]
