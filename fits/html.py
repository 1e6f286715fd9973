"""Results as a notebook shows them: a heading, a table, notes. Colours are the notebook's own, light or dark."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fits.numbers import quantity

_CELL = "padding:0.15em 0.8em 0.15em 0;vertical-align:top"
_HEAD = _CELL + ";border-bottom:1px solid currentColor"


def card(
    title: str,
    *,
    about: str = "",
    code: str = "",
    columns: Sequence[str] = (),
    rows: Iterable[Sequence[Any]] = (),
    notes: Iterable[str] = (),
) -> str:
    """HTML of one result; every text in it is escaped. Floats are shortened and numbers stand to the right."""
    parts = [f"<div><b>{escape(title)}</b>" + (f" {escape(about)}" if about else "")]
    if code:
        parts.append(f"<div><code style='white-space:pre-wrap'>{escape(code)}</code></div>")
    rows = [list(row) for row in rows]
    body = "".join(f"<tr style='background:none'>{''.join(map(_cell, row))}</tr>" for row in rows)
    if body:
        head = "".join(
            f"<th style='{_HEAD};text-align:{_align(value)}'>{escape(str(name))}</th>"
            for name, value in zip(columns, rows[0], strict=bool(columns))
        )
        head = f"<thead><tr>{head}</tr></thead>" if columns else ""
        parts.append(f"<table style='border-collapse:collapse;margin:0.4em 0'>{head}<tbody>{body}</tbody></table>")
    if found := "".join(f"<li>{escape(note)}</li>" for note in notes):
        parts.append(f"<ul style='margin:0.2em 0'>{found}</ul>")
    return "".join(parts) + "</div>"


def _cell(value: Any) -> str:
    text = quantity(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return f"<td style='{_CELL};text-align:{_align(value)};font-variant-numeric:tabular-nums'>{escape(text)}</td>"


def _align(value: Any) -> str:
    return "right" if isinstance(value, int | float) else "left"
