"""Draw the packages and their rooms in CONTRIBUTING.md from the import contract: python docs/make_structure.py"""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- drawn by docs/make_structure.py -->", "<!-- end of the drawing -->"
_WIDTH = 22


def drawing() -> str:
    """A package a block, from the top floor down; in it a line a room, with the first sentence of the room."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [each for each in contracts if each["type"] == "layers"]
    packages = next(each["layers"] for each in layers if "containers" not in each)
    floors = {each["containers"][0]: each["layers"] for each in layers if "containers" in each}
    lines = []
    for package in packages:
        lines += ["", f"{package}/".ljust(_WIDTH) + _about(ROOT / package)]
        for floor in floors[package]:
            rooms = re.split(r" [|:] ", floor)
            lines += [f"{'  └' if room == rooms[0] else '   '} {room}".ljust(_WIDTH) + _about_room(package, room)
                      for room in rooms]  # fmt: skip
    return "\n".join(["```text", *lines[1:], "```"])


def _about_room(package: str, room: str) -> str:
    folder = ROOT / package / room
    return _about(folder) if folder.is_dir() else _sentence(folder.with_suffix(".py"))


def _about(folder: Path) -> str:
    return _sentence(folder / "__init__.py")


def _sentence(file: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0].rstrip(".").replace("``", "")


def with_drawing(text: str) -> str:
    """The page with a fresh drawing between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text()))
