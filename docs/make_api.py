"""Write docs/api.md, the list of public names: python docs/make_api.py"""

import importlib
import inspect
from pathlib import Path

PACKAGES = ("fits", "trainer_small", "vocab_study", "scaling")
PAGE = Path(__file__).with_name("api.md")

HEADING = """# The public names

What a package exports is public and stable: a breaking change is listed in the changelog. Everything else (modules,
names in them) is private and may change without notice. Nothing heavy loads until you use a name: `import scaling`
loads no torch. Each name's own help has its arguments, units and errors: `help(fits.fit)`.

Written by `python docs/make_api.py`; a test keeps its names equal to those of the packages.
"""


def page() -> str:
    """The whole page."""
    lines = [HEADING]
    for package in PACKAGES:
        module = importlib.import_module(package)
        first = (module.__doc__ or "").splitlines()[0]
        lines += [f"## {package}", "", first, "", "| name | what it is |", "| --- | --- |"]
        lines += [f"| `{name}` | {_summary(getattr(module, name))} |" for name in module.__all__]
        lines.append("")
    return "\n".join(lines)


def _summary(thing: object) -> str:
    """The first sentence of the docstring, on one line, safe in a table."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return paragraph.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
