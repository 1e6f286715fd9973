"""The command line: each command parses, calls one library function and prints."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fits.errors import UserError


class Commands(TyperGroup):
    """Turns a mistake the user can mend into one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(importlib.metadata.version("moe-scaling"))
        raise typer.Exit


@app.callback()
def scaling(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Plan a large Mixture-of-Experts pretraining run: small runs in, a trustworthy training config out.

    The road: corpus, vocab study, sweep design, sweep run, sweep table, fit, plan, export, check, track, report.
    `scaling demo` walks it end to end.
    """
    del debug, version


# One file a group of commands; each attaches itself, in the order of the road.
_GROUPS = "demo corpus vocab sweep fit laws budget plan export check track report count data doctor"
for _group in _GROUPS.split():
    importlib.import_module(f"scaling.commands.{_group}").register(app)
