"""From a matplotlib figure to inline SVG: page colours instead of fixed ones, hover texts, alternative text."""

import html
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from scaling.report.numbers import power

INK, MUTED, RULE, PAPER = "#1b1f23", "#5d6670", "#d5dade", "#fdfdfb"
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
"""Okabe and Ito's colours, told apart by the colour-blind; the page has a lighter set of them for dark mode."""
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "D", "^", "v", "P")

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    VERMILLION: "vermillion",
    PURPLE: "purple",
    SKY: "sky",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.8,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Chart:
    """One figure of the page: its drawing and the caption that says what to see."""

    svg: str
    caption: str
    kinds: tuple[tuple[str, str], ...] = ()
    """(kind, label) of what a reader can show and hide."""


@dataclass
class Canvas:
    """What a chart function draws on; ``svg`` is there once the ``with`` block is left."""

    axes: Axes
    svg: str = ""


@contextmanager
def canvas(name: str, alt: str, *, width: float = 470, height: float = 310) -> Iterator[Canvas]:
    """A canvas of ``width`` x ``height`` CSS pixels in the report's style.

    Args:
        name: unique on the page; keeps the identifiers of the drawings apart.
        alt: what the figure shows, for those who cannot see it.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        drawn = Canvas(figure.subplots())
        yield drawn
        drawn.svg = _inline(figure, name, alt)


def _inline(figure: Figure, name: str, alt: str) -> str:
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", text)
    # Pixels need no six digits: this halves the size of the page.
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda place: re.sub(r"(\.\d{2})\d+", r"\1", place.group()), text)
    text = re.sub(r'<g id="of:(\w+):', r'<g class="of-\1" id="', text).replace(' id=""', "")
    text = re.sub(r' id="tip:(.*?)">', r"><title>\1</title>", text)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(alt)}" {box.group() if box else ""}>'
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    return re.sub(r"\s*\n\s*", " ", text)


def tip(text: str) -> str:
    """The ``gid`` of an artist that shows ``text`` when the pointer rests on it."""
    return f"tip:{text}"


def of_kind(kind: str, gid: str = "") -> str:
    """The ``gid`` of an artist that is shown and hidden with all others of its kind (``Chart.kinds``)."""
    return f"of:{kind}:{gid}"


def mark(axes: Axes, x: float, y: float, text: str, series: int = 0, *, colour: str | None = None) -> None:
    """One run or figure as a mark of a series that shows ``text`` when the pointer rests on it."""
    chosen, marker = (colour, "o") if colour else (SERIES[series], MARKERS[series])
    axes.plot([x], [y], marker=marker, color=chosen, markersize=6.5, alpha=0.85, gid=tip(text))


def log_axis(axes: Axes, which: str, form=power, *, ticks: list[float] | None = None) -> None:
    """A logarithmic axis whose labels a person reads (``form`` of the value), at most about six of them."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else 1.0
    if ticks is not None:
        axis.set_major_locator(FixedLocator(ticks))
    elif decades < 1.2:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    elif decades < 2.4:
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
    else:
        axis.set_major_locator(LogLocator(numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
