"""Every notebook runs from top to bottom, is stored without outputs, and uses public names only."""

import ast
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGES = ("fits", "trainer_small", "vocab_study", "scaling")
by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_five() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@by_notebook
def test_it_is_stored_without_outputs(path: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_of(path))


@by_notebook
def test_it_uses_public_names_only(path: Path) -> None:
    lines = [line for cell in code_of(path) for line in "".join(cell["source"]).splitlines()]
    tree = ast.parse("\n".join(line for line in lines if not line.startswith("%")))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert "." not in str(node.module), f"{node.module} is private"
            if node.module in PACKAGES:
                assert {each.name for each in node.names} <= set(importlib.import_module(node.module).__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PACKAGES:
            assert node.attr in importlib.import_module(node.value.id).__all__, f"{node.value.id}.{node.attr}"


@pytest.mark.slow
@by_notebook
def test_it_runs(path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
