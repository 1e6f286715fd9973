"""Charts of a plan: what it costs to be off, the promised curve, how far it reaches, the spread of published laws."""

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from scaling.plan import Advice, Neighbour, Prediction, TrainingPlan
from scaling.report.answer import is_built
from scaling.report.charts import draw
from scaling.report.curves import Frontier
from scaling.report.numbers import flops, percent, quantity, short
from scaling.report.points import RunPoint

_VALUE = " | "
"""Before the value in a row's key in the chart of regret: groups may share values."""


def regret_chart(name: str, neighbours: tuple[Neighbour, ...]) -> draw.Chart:
    """Extra compute of each neighbour as a dot with its interval, grouped by the choice that changed."""
    table = pd.DataFrame([each.model_dump() for each in neighbours])
    table = table.astype(dict.fromkeys(("regret", "low", "high"), float))
    table[["group", "value"]] = [_split(change) for change in table.change]
    table["row"] = table.group + _VALUE + table.value
    table["tip"] = [
        f"{each.change}: {percent(each.regret)} ({percent(each.low)} to {percent(each.high)})" for each in neighbours
    ]
    table["endless"] = table.low.notna() & table.high.isna()
    known = table[["regret", "low", "high"]].to_numpy()
    right = np.nanmax([*known.flat, 0.02]) * (3 if any(table.endless | table.regret.isna()) else 1.3)
    left = min(np.nanmin([*known.flat, 0]) * 1.3, -0.003)
    ends, ticks = table.assign(high=table.high.fillna(right)), (-1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10, 100)
    bars, never = draw.tipped(ends.dropna(subset=["low"])), draw.tipped(table.query("regret.isna()"))
    rows = [row for group, members in table.groupby("group", sort=False) for row in (str(group), *members.row)]
    x = alt.X(
        field="regret",
        type="quantitative",
        title="extra compute for the same loss",
        scale=alt.Scale(type="symlog", constant=0.01, domain=[left, right], nice=False),
        axis=alt.Axis(values=ticks, labelExpr="datum.value ? format(100 * datum.value, '+,') + '\u00a0%' : '0'"),
    )
    values = alt.Axis(labelExpr=f"split(datum.value, '{_VALUE}')[1] || ''", ticks=False, domain=False, grid=False)
    y = alt.Y("row:N", title=None, scale=alt.Scale(domain=rows), axis=values)
    headings = alt.Chart(table.drop_duplicates("group")).encode(x=alt.value(0), y=alt.Y("group:N"), text="group:N")
    caption = (
        "What it costs to be off. Each row changes one choice of the plan; the dot is the extra compute that reaches "
        "the same predicted loss. Zero is the plan."
    )
    if any(table.low.notna()):
        caption += " The bar is the interval over the law's draws"
        caption += "; an arrow: some draws never reach the loss." if any(table.endless) else "."
    return draw.figure(
        name,
        "Extra compute needed to reach the plan's loss with one choice changed, with intervals.",
        caption,
        alt.Chart(pd.DataFrame({"regret": [0]})).mark_rule().encode(x=x),
        headings.mark_text(align="left", fontWeight="bold", stroke=draw.PAPER, strokeWidth=4),
        headings.mark_text(align="left", fontWeight="bold"),
        bars.mark_rule(color=draw.BLUE, strokeWidth=2.5).encode(x=x.field("low"), x2="high", y=y),
        draw.points(ends.query("endless"), shape="triangle-right").encode(x=x.field("high"), y=y),
        draw.points(table.dropna(subset=["regret"])).encode(x=x, y=y),
        never.mark_text(text="never reaches this loss", align="right", color=draw.MUTED).encode(
            x=alt.value("width"), y=y
        ),
        height=22 * len(rows),
    )


def _split(change: str) -> tuple[str, str]:
    """``hidden_size 96 -> 112`` as its group and its value."""
    before, arrow, after = change.partition(" -> ")
    key, _, own = before.rpartition(" ")
    return (f"{key} (plan: {own})", after) if arrow and key else ("instead", change)


def curve_chart(name: str, prediction: Prediction) -> draw.Chart:
    """The predicted loss of runs that end at each number of tokens."""
    unit, first, last = prediction.unit.partition(",")[0], prediction.curve[0], prediction.curve[-1]
    curve = pd.DataFrame([each.model_dump() for each in prediction.curve])
    interval = f"{quantity(last.low)} to {quantity(last.high)}"
    end = curve.tail(1).assign(tip=f"{quantity(last.value)} ({interval}) at {short(last.tokens)} tokens")
    x = draw.log(alt.X, "tokens", "tokens of a decayed run that ends there", draw.COUNT)
    description = (
        f"Predicted {prediction.quantity.replace('_', ' ')} from {short(first.tokens)} to {short(last.tokens)} tokens, "
        f"ending at {quantity(last.value)} with interval {interval}."
    )
    caption = (
        "The promise to check the run against: what this model should reach if it is stopped, decayed, at each number "
        f"of tokens. Band: {prediction.interval}."
    )
    promise = _promise(end, x, unit, quantity(last.value), draw.BLUE, "circle")
    return draw.figure(name, description, caption, *draw.banded(curve, x, "value", unit), *promise)


def reach_chart(name: str, points: list[RunPoint], law: Frontier, plan: TrainingPlan) -> draw.Chart:
    """The runs, the law's best at each budget and the plan on one axis of compute: the gap is the extrapolation."""
    beyond = plan.extrapolation.decades_in_train_flops
    prediction, spent = plan.prediction, plan.budget.train_flops
    unit, largest = prediction.unit.partition(",")[0], max(each.train_flops for each in points)
    low, value, high = (quantity(each) for each in (prediction.low, prediction.value, prediction.high))
    runs = pd.DataFrame(points).assign(tip=[f"{each.run_id}: {quantity(each.measured)}" for each in points])
    end = pd.DataFrame([prediction.model_dump(include={"value", "low", "high"})])
    end = end.assign(train_flops=spent, tip=f"plan: {value} ({low} to {high})")
    x = draw.log(alt.X, "train_flops", "training FLOPs")
    gap = alt.Chart(pd.DataFrame({"train_flops": [largest], "end": [spent], "middle": [(largest * spent) ** 0.5]}))
    words = [f"{beyond:.1f} decades", "without a run"] if beyond > 0.3 else ""
    description = (
        f"Loss against training compute: {len(points)} runs up to {flops(largest)} FLOPs, "
        f"and the plan {beyond:.1f} decades beyond, predicted {value}."
    )
    caption = (
        "How far the answer reaches. Dots are measured runs; the line is the best that the law predicts at each "
        "budget, with its band; the diamond is the plan. At the compute in the grey stretch nothing was measured."
    )
    return draw.figure(
        name,
        description,
        caption,
        gap.mark_rect(color=draw.MUTED, opacity=0.1).encode(x=x, x2="end"),
        gap.mark_text(text=words, baseline="top", color=draw.MUTED).encode(x=x.field("middle"), y=alt.value(4)),
        *draw.banded(pd.DataFrame(vars(law)), x, "loss", unit),
        draw.points(runs, zoom=True, color=draw.INK).encode(x=x, y=draw.linear(alt.Y, "measured", unit)),
        *_promise(end, x, unit, "plan", draw.VERMILLION, "diamond"),
    )


def _promise(end: pd.DataFrame, x: alt.X, unit: str, word: str, colour: str, shape: str) -> list[alt.Chart]:
    """One predicted value with its interval, and a word above."""
    low, value, high = (draw.linear(alt.Y, column, unit) for column in ("low", "value", "high"))
    chart = draw.tipped(end).encode(x=x)
    return [
        chart.mark_errorbar(ticks=True, thickness=2, color=colour).encode(y=low, y2="high"),
        chart.mark_point(size=90, color=colour, shape=shape).encode(y=value),
        chart.mark_text(text=word, baseline="bottom", dy=-7).encode(y=high),
    ]


_WIDTH, _HEIGHT = 900, 380
"""Of the still chart of the spread; a live one that is much narrower has no labels but tips."""
_KINDS = {
    "MoE laws": (draw.BLUE, "circle"),
    "dense laws": (draw.PURPLE, "square"),
    "models as built": (draw.VERMILLION, "triangle-up"),
    "this plan": (draw.GREEN, "diamond"),
}


def _kind(advice: Advice) -> str:
    if is_built(advice):
        return "models as built"
    return "dense laws" if advice.note.startswith("dense") else "MoE laws"


def spread_chart(name: str, advice: tuple[Advice, ...], plan: TrainingPlan) -> draw.Chart | None:
    """Active parameters and tokens that each published law advises at one budget, and what others built."""
    laws = [(each.law, _kind(each), each.tokens, each.params_active) for each in advice]
    laws = [each for each in laws if all(each)]
    if not laws:
        return None
    rows = [*laws, ("this plan", "this plan", plan.tokens, plan.model.params_active)]
    table = pd.DataFrame(rows, columns=["law", "series", "tokens", "params"]).assign(
        tip=[f"{law}: {short(params)} active on {short(tokens)} tokens" for law, _, tokens, params in rows]
    )
    kinds = [kind for kind in _KINDS if kind in set(table.series)]
    x, y = (
        draw.log(channel, column, title, draw.COUNT, domain=[table[column].min() / 1.6, table[column].max() * 1.6])
        for channel, column, title in ((alt.X, "tokens", "tokens"), (alt.Y, "params", "active parameters"))
    )
    chosen = alt.selection_point(name="kinds", fields=["series"], bind="legend", toggle="true")
    marks = draw.points(table, zoom=True, size=90).encode(
        x=x, y=y, **draw.by_series(kinds, *zip(*(_KINDS[kind] for kind in kinds), strict=True))
    )
    places = pd.DataFrame(_label_places(table), columns=["align", "dx", "dy"], index=table.index)
    moved: dict = {name: alt.expr(f"datum.{name}") for name in places.columns}
    labels = alt.Chart(table.join(places)).mark_text(**moved, opacity=alt.expr("width < 600 ? 0 : 1"))
    labels = labels.encode(x=x, y=y, text="law:N")
    built = sum(kind == "models as built" for _, kind, *_ in laws)
    shown = f"{len(laws) - built} published laws, {built} built models, this plan"
    caption = (
        "The spread of opinion: the same budget put to every published law that applies, each in its own convention "
        "(dots and squares), the models that others built with a similar budget (triangles), and this plan (diamond). "
        "Down the diagonal the budget is the same; where along it to stand is what the laws disagree about. "
        "Choose kinds in the legend to see only them."
    )
    layers = [layer.transform_filter(chosen) for layer in (marks.add_params(chosen), labels)]
    return draw.figure(
        name, f"Active parameters against tokens: {shown}.", caption, *layers, width=_WIDTH, height=_HEIGHT
    )


def _label_places(table: pd.DataFrame) -> Iterator[tuple[str, int, int]]:
    """(alignment, dx, dy) of each label: beside its mark, clear of the marks and of the labels before it."""
    x, y = (
        np.interp(np.log(column), [np.log(column.min() / 1.6), np.log(column.max() * 1.6)], ends)
        for column, ends in ((table.tokens, (18, _WIDTH - 18)), (table.params, (_HEIGHT - 18, 18)))
    )
    taken = list(zip(x - 8, x + 8, y, strict=True))
    for law, left, top in zip(table.law, x, y, strict=True):
        length = 7 * len(law)
        spots = {
            (align, dx, dy): (left + dx - length * (dx < 0), left + dx + length * (dx > 0), top + dy)
            for dy in (0, -8, 8, -16, 16)
            for align, dx in (("left", 10), ("right", -10))
        }
        free = [
            place
            for place, (start, end, height) in spots.items()
            if start > 0
            and end < _WIDTH
            and all(end < first or start > last or abs(height - line) > 13 for first, last, line in taken)
        ]
        place = free[0] if free else next(iter(spots))
        taken.append(spots[place])
        yield place
