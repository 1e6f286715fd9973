"""What all charts share: axes, marks with tips, and a Vega-Lite specification in the page's colours."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

INK, MUTED, RULE, PAPER = (f"var(--{name})" for name in ("ink", "muted", "rule", "paper"))
SERIES = [f"var(--{name})" for name in ("blue", "vermillion", "green", "purple", "orange", "sky")]
"""Okabe and Ito's colours, told apart by the colour-blind; the style sheet has them for both colour schemes."""
BLUE, VERMILLION, GREEN, PURPLE, *_ = SERIES
SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"]

COUNT = "replace(format(datum.value, '.3~s'), 'G', 'B')"
SIZE = "datum.value % 1024 || datum.value < 1e4 ? format(datum.value, '~') : datum.value / 1024 + 'k'"
_EXPONENT = "floor(log(datum.value) / LN10 + 1e-9)"
_LEADING = f"round(datum.value / pow(10, {_EXPONENT}))"
_RAISED = f"'⁰¹²³⁴⁵⁶⁷⁸⁹'[floor({_EXPONENT} / 10)] + '⁰¹²³⁴⁵⁶⁷⁸⁹'[{_EXPONENT} % 10]"
POWER = f"({_LEADING} == 1 ? '' : {_LEADING} + '·') + '10' + {_RAISED}"
"""Labels of an axis as Vega expressions, so that they hold while a reader zooms: 31.2B, 128k, 3·10¹⁵."""

_TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12.5, "titleFontWeight": "normal"}
_CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _TEXT
    | {"domainColor": MUTED, "tickColor": MUTED, "gridColor": RULE, "labelOverlap": "greedy", "titlePadding": 8},
    "legend": _TEXT | {"orient": "bottom", "title": None, "columns": 2, "labelLimit": 0},
    "line": {"color": BLUE},
    "area": {"color": BLUE, "opacity": 0.18},
    "point": {"color": BLUE, "filled": True, "size": 60, "opacity": 0.9},
    "rule": {"color": INK},
    "text": {"color": INK, "fontSize": 12.5},
}


@dataclass(frozen=True)
class Chart:
    """One figure of the page."""

    spec: dict[str, Any]
    """Vega-Lite, as wide as its place on the page; colours are the page's CSS variables."""
    svg: str
    """The still picture, for print and where scripts do not run."""
    caption: str

    @property
    def json(self) -> str:
        """The specification as the text of a script element, which nothing in it can end."""
        return json.dumps(self.spec, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def figure(name: str, description: str, caption: str, *layers: alt.Chart, width: int = 470, height: int = 250) -> Chart:
    """Layers over shared axes as one chart.

    Args:
        name: unique on the page; keeps the identifiers of the still pictures apart.
        description: what the chart shows, for those who cannot see it.
        width: of the still picture.
    """
    chart = alt.layer(*layers).properties(width="container", height=height, description=description)
    spec = chart.to_dict() | {"config": _CONFIG}
    svg = vl_convert.vegalite_to_svg(spec | {"width": width})
    named = f'class="still" role="img" aria-label="{html.escape(description)}"'
    svg = re.sub(r'class="marks" width="\d+" height="\d+"', lambda _: named, svg, count=1)
    # Pixels need no six digits.
    svg = re.sub(r' (?:d|x2|y2|transform)="[^"]*"', lambda place: re.sub(r"(\.\d{2})\d+", r"\1", place.group()), svg)
    clips = list(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)))  # numbered through all pictures of the process
    svg = re.sub(r"(?<=[\"#])clip\d+(?=[\")])", lambda clip: f"{name}-clip{clips.index(clip.group())}", svg)
    return Chart(spec, svg, caption)


@cache
def script() -> str:
    """The charting library and what turns the specifications on the page into live charts."""
    return vl_convert.javascript_bundle(Path(__file__).with_name("live.js").read_text())


def log(channel: type, field: str, title: str, labels: str = POWER, ticks: Sequence[float] = (), **domain) -> Any:
    """A logarithmic axis, not stretched to whole decades; ``ticks`` where only some values mean anything."""
    # Vega leaves the label of a minor tick empty: it gets no line either.
    major: Any = {"condition": {"test": "datum.label", "value": 1}, "value": 0}
    few = {"labelExpr": f"datum.label ? {labels} : ''", "tickCount": 5, "gridOpacity": major, "tickOpacity": major}
    axis = alt.Axis(labelExpr=labels, values=ticks) if ticks else alt.Axis(**few)
    scale = alt.Scale(type="log", nice=False, padding=18, **domain)
    return channel(field=field, type="quantitative", title=title, axis=axis, scale=scale)


def linear(channel: type, field: str, title: str) -> Any:
    """A linear axis that need not begin at zero."""
    return channel(field=field, type="quantitative", title=title, scale=alt.Scale(zero=False, padding=8))


def by_series(values: Iterable[str], colours: Sequence[str] = SERIES, shapes: Sequence[str] = ()) -> dict[str, Any]:
    """Colour, and shape where there are shapes, by the column ``series``; past the palette they repeat."""
    domain = list(dict.fromkeys(values))
    legend: Any = alt.Undefined if len(domain) > 1 else None
    channels: dict[str, Any] = {
        "color": alt.Color("series:N", scale=alt.Scale(domain=domain, range=list(colours)), legend=legend)
    }
    if shapes:
        channels["shape"] = alt.Shape("series:N", scale=alt.Scale(domain=domain, range=list(shapes)))
    return channels


def tipped(data: pd.DataFrame) -> alt.Chart:
    """Marks of this data show its ``tip`` when the pointer rests on them."""
    return alt.Chart(data).encode(tooltip=alt.Tooltip("tip:N"), description="tip:N")


def points(data: pd.DataFrame, zoom: bool = False, **mark) -> alt.Chart:
    """A mark with its tip for each row.

    Args:
        zoom: dragging moves the axes and the wheel zooms while Ctrl is held: the wheel alone scrolls the page.
    """
    layer = tipped(data).mark_point(**mark)
    drag = "[pointerdown[event.pointerType == 'mouse'], window:pointerup] > window:pointermove!"
    bound = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.ctrlKey]", translate=drag)
    return layer.properties(name="points").add_params(bound) if zoom else layer


def banded(data: pd.DataFrame, x: alt.X, y: str, unit: str, **channels) -> list[alt.Chart]:
    """A line of the column ``y`` for each series, with the band from ``low`` to ``high`` under it."""
    chart = alt.Chart(data).encode(x=x, **channels)
    low, line = linear(alt.Y, "low", unit), linear(alt.Y, y, unit)
    return [chart.mark_area().encode(y=low, y2="high"), chart.mark_line().encode(y=line)]
