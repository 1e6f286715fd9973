"""How the command line speaks: one table style, JSON on request, progress with the time left."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from fits.numbers import quantity

if TYPE_CHECKING:  # rich takes longer to load than the help takes to print
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table

    from fits.progress import Progress as Watch


@cache
def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def say(text: str = "") -> None:
    """A line for a person; markup is not interpreted, so values print as they are.

    A terminal gets it broken between words, a pipe or a log whole.
    """
    _console().print(text, markup=False, soft_wrap=not _console().is_terminal)


def note(text: str) -> None:
    """A line beside the result, on standard error: what is going on, what went wrong."""
    _console(stderr=True).print(text, markup=False, soft_wrap=not is_terminal())


def is_terminal() -> bool:
    """Whether someone watches standard error, so that a bar makes sense."""
    return _console(stderr=True).is_terminal


def print_json(value: Any) -> None:
    """JSON for a program: nothing else goes to standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A table that fits the terminal; numbers are right-aligned."""
    print_renderable(make_table(columns, rows, title=title))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> "Table":
    """The one table style."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    if title:
        say()
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, so that brackets in a value are no markup.
        table.add_row(*(Text(quantity(cell) if isinstance(cell, float) else str(cell)) for cell in row))
    return table


def print_renderable(value: Any) -> None:
    """Something of rich's, such as a table, on standard output."""
    _console().print(value, markup=False)


def live() -> "Live":
    """A part of the terminal that is drawn anew: for a table that someone watches."""
    from rich.live import Live

    return Live(console=_console(), auto_refresh=False, transient=True)


def _watched() -> "Console":
    """Where bars are drawn; off a terminal nowhere, for even a bar that is not drawn ends with an empty line."""
    from rich.console import Console

    return _console(stderr=True) if is_terminal() else Console(quiet=True)


@contextmanager
def working(what: str) -> Iterator["Watch"]:
    """A turning mark with the time gone by, on a terminal; and the time left, once the work says how far it is."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn(what, markup=False), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=_watched(), transient=True, disable=not is_terminal()) as bar:
        task = bar.add_task(what, total=None)

        def watch(done: int, total: int) -> None:
            bar.columns = (*columns, *left)
            bar.update(task, completed=done, total=total)

        yield watch


def progress() -> "Progress":
    """A bar with what is done and the time left; on a pipe or in a log it prints nothing while it runs."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_watched(),
        transient=True,
        disable=not is_terminal(),
    )
