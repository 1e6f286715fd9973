"""Results as a notebook shows them: a heading, a table, notes. Colours are the notebook's own, light or dark."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_CELL = "padding:0.15em 0.8em 0.15em 0;vertical-align:top"
_HEAD = _CELL + ";text-align:left;border-bottom:1px solid currentColor"


def number(value: float) -> str:
    """Four significant digits, scientific when very large or small."""
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


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
    body = "".join(f"<tr style='background:none'>{''.join(map(_cell, row))}</tr>" for row in rows)
    if body:
        head = "".join(f"<th style='{_HEAD}'>{escape(str(name))}</th>" for name in columns)
        head = f"<thead><tr>{head}</tr></thead>" if columns else ""
        parts.append(f"<table style='border-collapse:collapse;margin:0.4em 0'>{head}<tbody>{body}</tbody></table>")
    if found := "".join(f"<li>{escape(note)}</li>" for note in notes):
        parts.append(f"<ul style='margin:0.2em 0'>{found}</ul>")
    return "".join(parts) + "</div>"


def _cell(value: Any) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    align = "right" if numeric else "left"
    text = number(value) if isinstance(value, float) else f"{value:,}" if numeric else str(value)
    return f"<td style='{_CELL};text-align:{align};font-variant-numeric:tabular-nums'>{escape(text)}</td>"
