"""CONTRIBUTING.md: its drawing is the import contract's, and the files of its tasks exist."""

import re

from docs.make_structure import BEGIN, PAGE, with_drawing
from tests.places import ROOT


def test_the_drawing_is_that_of_the_import_contract() -> None:
    assert BEGIN in PAGE.read_text()
    assert PAGE.read_text() == with_drawing(PAGE.read_text()), "draw it again: python docs/make_structure.py"


def test_the_files_of_every_task_exist() -> None:
    section = PAGE.read_text().split("## Ten tasks")[1].split("\n## ")[0]
    tasks = [line.split("|")[1:4] for line in section.splitlines() if re.match(r"\| (add|change) ", line)]
    assert len(tasks) == 10
    for task, files, how in tasks:
        named = re.findall(r"`([\w./]+/[\w./]*)`", files + how)
        assert named, f"{task}: no file is named"
        for name in named:
            assert (ROOT / name).exists(), f"{task}: {name} is not there"
