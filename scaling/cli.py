"""The command line: each command parses, calls one library function and prints."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fits.errors import UserError

_ORDER = (
    *("demo", "corpus", "vocab", "sweep", "fit", "laws", "budget", "plan"),
    *("layout", "export", "export_run", "check", "track", "report", "count", "data", "doctor"),
)
"""The commands in the order of the road."""


class Listing(TyperGroup):
    """Lists its commands in the order of their making, each with its whole first sentence."""

    def list_commands(self, ctx: Any) -> list[str]:
        places = {module.replace("_", "-"): place for place, module in enumerate(_ORDER)}
        return sorted(self.commands, key=lambda name: places.get(name, 0))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _sentence(each.help or "")) for name, each in commands if not each.hidden])


def _sentence(text: str) -> str:
    """The first paragraph on one line, without its full stop; the formatter breaks it at the terminal's width."""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


class Commands(Listing):
    """Turns a mistake the user can mend into one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            message = str(error)
        except OSError as error:
            if ctx.params.get("debug") or isinstance(error, BrokenPipeError) or error.filename is None:
                raise
            message = (
                f"{error.filename}: {(error.strerror or 'failed').lower()}; check the path, its rights and its disk."
            )
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(2)


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fits.version import program_version

        typer.echo(program_version())
        raise typer.Exit


@app.callback()
def scaling(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan a large Mixture-of-Experts pretraining run: small runs in, a trustworthy training config out.

    The road: corpus, vocab study, sweep design, sweep run, sweep table, fit, plan, layout,
    export, check, track, report.
    `scaling demo` walks it end to end. Every command has --help with an
    example, and --json.

    \b
    Exit codes: 0 done; 1 some runs of a sweep failed; 2 a mistake that you
    can mend, or a fault that `check` found; 130 stopped by Ctrl-C.
    """
    del debug, version


# One file a group of commands; each attaches itself.
for _group in _ORDER:
    importlib.import_module(f"scaling.commands.{_group}").register(app)
for _registered in app.registered_groups:
    if _registered.typer_instance is not None:
        _registered.typer_instance.info.cls = Listing
