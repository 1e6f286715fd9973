"""``scaling demo``: the whole road in one command."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder for everything the demo makes.")] = Path("demo_out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print where the report is as JSON.")] = False,
) -> None:
    """Walk the whole road on the text that comes with Python: runs, laws, plans, configs, report.

    Takes some minutes; a second call finds what is done. Ctrl-C stops it, the same command carries on.

    \b
    Example: scaling demo --out demo_out
    """
    from scaling.console import print_json
    from scaling.demo import walk

    if not as_json:
        walk(out)
        return
    with contextlib.redirect_stdout(sys.stderr):  # what the steps say
        report = walk(out)
    print_json({"report": str(report)})
