"""``scaling report``: one HTML file about a folder of the road."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    directory: Annotated[Path, typer.Argument(help="Folder with plan.yaml, law.json, runs.csv and their like.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a self-contained HTML report: the plan, the evidence, what is uncertain.

    Sections whose files are missing are left out, and the report says so.

    Example: scaling report demo_out --out report.html
    """
    from scaling.commands.console import print_json, say, working
    from scaling.report import write_report

    with working("writing the report"):
        path = write_report(directory, out)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
        return
    say(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB); open it in a browser")
