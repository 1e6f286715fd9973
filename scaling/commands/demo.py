"""``scaling demo``: the whole road in one command."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder for everything the demo makes.")] = Path("demo_out"),
) -> None:
    """Walk the whole road on the text that comes with Python: runs, laws, plans, configs, report.

    Takes some minutes; a second call finds what is done. Ctrl-C stops it, the same command carries on.

    \b
    Example: scaling demo --out demo_out
    """
    from scaling.demo import walk

    walk(out)
