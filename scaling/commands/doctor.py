"""`scaling doctor`: what is installed, and what to do about what is not."""

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell the interpreter, cores, memory, device, packages and extras, and how to get what is missing.

    Extras, named in brackets, are needed only for what their name says.

    \b
    Example: scaling doctor
    """
    from dataclasses import asdict

    from scaling.console import print_json, print_table
    from scaling.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(each) for each in findings])
        return
    print_table(["what", "found", "to have it"], [[each.what, each.found, each.mend] for each in findings])


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command()(doctor)
