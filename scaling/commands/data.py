"""`scaling data`: public run tables, from where their authors published them."""

from typing import Annotated

import typer


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the public run tables that can be fetched, their licence, and which are here.

    \b
    Example: scaling data list
    """
    from fits.tables.public_tables import data_root, list_tables
    from scaling.commands.console import print_json, print_table, say

    root = data_root()
    here = {table.name: not table.missing(root) for table in list_tables()}
    if as_json:
        print_json([{**table.model_dump(mode="json"), "here": here[table.name]} for table in list_tables()])
        return
    rows = [[table.name, "yes" if here[table.name] else "", table.what, table.licence] for table in list_tables()]
    print_table(["table", "here", "what", "licence"], rows)
    say(f"folder: {root} (set SCALING_DATA for another)")


def get(
    name: Annotated[str, typer.Argument(help="A table of `scaling data list`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch a public run table at the commit that was checked, and verify it.

    \b
    Example: scaling data get epoch_chinchilla
    """
    from fits.tables.public_tables import get_table, list_tables
    from scaling.commands.console import print_json, say

    folder = get_table(name)
    table = next(each for each in list_tables() if each.name == name)
    if as_json:
        print_json({**table.model_dump(mode="json"), "folder": str(folder)})
        return
    for file in table.files:
        say(str(folder / file.name))
    say(f"{table.repository} at {table.commit[:12]}; licence: {table.licence}")


def register(app: typer.Typer) -> None:
    """Attach the group."""
    group = typer.Typer(help="Public run tables.", no_args_is_help=True)
    group.command("list")(list_)
    group.command("get")(get)
    app.add_typer(group, name="data")
