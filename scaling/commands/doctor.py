"""`scaling doctor`: what is installed, and what to do about what is not."""

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell the interpreter, cores, memory, device, packages and extras, and how to get what is missing.

    Extras, named in brackets, are optional: each is needed only for what stands beside its name.

    \b
    Example: scaling doctor
    """
    from dataclasses import asdict

    from scaling.commands.console import print_json, print_table, say
    from scaling.installation.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(each) for each in findings])
        return
    for title, needed in (("", True), ("Optional", False)):
        chosen = [each for each in findings if each.needed is needed]
        print_table(["what", "found"], [[each.what, each.found] for each in chosen], title=title)
    faults = [each for each in findings if each.mend and each.needed]
    for each in faults:
        say(f"! {each.what}: {each.mend}")
    wanted = [each for each in findings if each.mend and not each.needed]
    if wanted:
        say("\nTo have what is missing of the optional:")
        for each in wanted:
            say(f"  {each.what.split(']')[0].lstrip('[')}: {each.mend}")
    if not faults:
        say("\nAll that is needed is here. Begin with: scaling demo --out demo_out")


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command()(doctor)
