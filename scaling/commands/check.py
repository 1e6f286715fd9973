"""scaling check: will the stacks run what the plan says?"""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from scaling.commands.console import print_json, print_table, working


def check(
    path: Annotated[Path, typer.Argument(help="plan.yaml, one exported file, or a folder of them.")],
    stack: Annotated[list[str] | None, typer.Option(help="Only this stack; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a plan or its exported files: our own checks, then counts and learning rates by the stacks' own classes.

    A folder with a plan.yaml has every file compared with it. Exit code 2 when there is a fault.

    \b
    Example:
        scaling check main_run
    """
    from scaling.handoff.check import check_configs

    with working("checking") as watch:
        report = check_configs(path, stack or ["all"], progress=watch)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        for file, found in groupby(report.checks, key=lambda item: item.subject):
            rows = [(item.status, item.name, item.detail) for item in found]
            print_table(["", "check", "detail"], rows, title=file.removeprefix(f"{path}/"))
    if not report.ok:
        typer.echo(f"error: {report.faults[0].detail}", err=True)
        raise typer.Exit(2)


def register(app: typer.Typer) -> None:
    app.command()(check)
