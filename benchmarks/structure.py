"""The size and shape of the code: files, lines, functions, and what imports what.

    python benchmarks/structure.py [CHECKOUT ...]    # this one, and others beside it

Lines are those of Python files, tests and benchmarks apart. A circle is a group of modules that import each other:
at the top, inside a function or for the type checker. An arrow is one room that imports another of its package.
"""

import ast
import statistics
import sys
from pathlib import Path

from benchmarks.markdown import table

PACKAGES = ("fits", "trainer_small", "vocab_study", "scaling")
ROOT = Path(__file__).resolve().parents[1]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of the four packages."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of the four packages that it imports, anywhere in it."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{each.name}" for each in node.names}
                found[name] |= named & known.keys() or {node.module} & known.keys()
            elif isinstance(node, ast.Import):
                found[name] |= {each.name for each in node.names} & known.keys()
        found[name].discard(name)
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which reaches the others."""
    reached = {name: _reach(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return [set(group) for group in groups if group]


def _reach(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += graph[name]
    return seen


def floors(graph: dict[str, set[str]], package: str) -> int:
    """Modules on the longest way down inside a package; circles are cut."""
    inside = {
        name: {to for to in tos if to.startswith(package)} for name, tos in graph.items() if name.startswith(package)
    }
    depth: dict[str, int] = {}

    def deep(name: str, above: tuple[str, ...]) -> int:
        if name not in depth:
            depth[name] = 1 + max((deep(to, (*above, name)) for to in inside[name] if to not in above), default=0)
        return depth[name]

    return max(deep(name, ()) for name in inside)


def arrows(graph: dict[str, set[str]], package: str) -> tuple[int, int]:
    """Pairs of rooms of which one imports the other, and pairs that import each other."""
    pairs = set()
    for name, tos in graph.items():
        for to in tos:
            one, other = name.split("."), to.split(".")
            if one[0] == other[0] == package and len(one) > 2 and len(other) > 2 and one[1] != other[1]:
                pairs.add((one[1], other[1]))
    return len(pairs), sum((b, a) in pairs for a, b in pairs) // 2


def functions(files: list[Path]) -> list[int]:
    """Lines of every function and method."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    trees = [ast.walk(ast.parse(file.read_text())) for file in files]
    return [(node.end_lineno or 0) - node.lineno + 1 for tree in trees for node in tree if isinstance(node, kinds)]


def measures(root: Path) -> list[tuple[str, str]]:
    """What is measured, and its value."""
    known, graph = modules(root), imports(root)
    lines = {name: len(file.read_text().splitlines()) for name, file in known.items()}
    longest = max(lines, key=lambda name: lines[name])
    found = [
        ("files of the packages", f"{len(known)}"),
        ("lines of the packages", f"{sum(lines.values()):,}"),
        ("median file", f"{statistics.median(lines.values()):.0f} lines"),
        ("longest file", f"{lines[longest]} lines ({longest})"),
        (
            "files under 40 lines, `__init__` apart",
            f"{sum(n < 40 and known[m].stem != '__init__' for m, n in lines.items())}",
        ),
        ("median function", f"{statistics.median(functions(list(known.values()))):.0f} lines"),
        ("circles", f"{len(circles(graph))}"),
    ]
    for package in PACKAGES:
        rooms, both = arrows(graph, package)
        top = len(list((root / package).glob("*.py")))
        total = sum(count for name, count in lines.items() if name.split(".")[0] == package)
        found.append((f"`{package}`: lines, files at the top, floors", f"{total:,}, {top}, {floors(graph, package)}"))
        found.append((f"`{package}`: arrows between rooms, both ways", f"{rooms}, {both}"))
    for other in ("tests", "benchmarks"):
        files = list((root / other).rglob("*.py"))
        found.append((f"lines of `{other}`", f"{sum(len(file.read_text().splitlines()) for file in files):,}"))
    return found


if __name__ == "__main__":
    roots = [ROOT, *map(Path, sys.argv[1:])]
    columns = [dict(measures(root)) for root in roots]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print(table(["", *(root.resolve().name for root in roots)], rows))
