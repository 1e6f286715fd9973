"""Charts of a plan: what it costs to be off, the promised curve, how far it reaches, the spread of published laws."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from scaling.plan import Advice, Neighbour, Prediction, TrainingPlan
from scaling.report.answer import is_built
from scaling.report.charts.svg import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    VERMILLION,
    Chart,
    canvas,
    log_axis,
    mark,
    of_kind,
    tip,
)
from scaling.report.curves import Frontier
from scaling.report.numbers import flops, percent, quantity, short
from scaling.report.points import RunPoint

_NEVER = 100.0
"""A hundredfold compute, as a fraction: the search for regret stops there, so the axis does too."""


def regret_chart(name: str, neighbours: tuple[Neighbour, ...]) -> Chart:
    """Extra compute of each neighbour as a dot with its interval, grouped by the choice that changed."""
    groups: dict[str, list[tuple[str, Neighbour]]] = {}
    for neighbour in neighbours:
        group, label = _split(neighbour.change)
        groups.setdefault(group, []).append((label, neighbour))
    rows = sum(len(group) + 1 for group in groups.values())
    known = [value for each in neighbours for value in (each.regret, each.low, each.high) if value is not None]
    unreachable = any(each.regret is None or _endless(each) for each in neighbours)
    right = 100 * max([*known, 0.02]) * (3 if unreachable else 1.3)
    left = min(100 * min([*known, 0.0]) * 1.3, -0.3)
    alt = "Extra compute needed to reach the plan's loss with one choice changed, with intervals."
    with canvas(name, alt, width=470, height=54 + 23 * rows) as drawn:
        axes, row = drawn.axes, 0
        ticks, labels = [], []
        for group, members in groups.items():
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            place = axes.get_yaxis_transform()
            axes.text(0.004, -row, group, transform=place, va="center", fontweight="bold", bbox=ground)
            row += 1
            for label, neighbour in members:
                _regret_row(axes, -row, neighbour, right)
                ticks.append(-row)
                labels.append(label)
                row += 1
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.set_xlim(left, right)
        marks = [mark for mark in (-100, -10, -1, 0, 1, 10, 100, 10000) if left <= mark <= right]
        axes.set_xticks(marks, [percent(mark / 100) if mark else "0" for mark in marks])
        axes.minorticks_off()
        axes.set_yticks(ticks, labels)
        axes.set_ylim(-row + 0.4, 0.7)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("extra compute for the same loss")
    caption = (
        "What it costs to be off. Each row changes one choice of the plan; the dot is the extra compute that reaches "
        "the same predicted loss. Zero is the plan."
    )
    if any(each.low is not None for each in neighbours):
        caption += " The bar is the interval over the law's draws"
        caption += "; an arrow: some draws never reach the loss." if any(map(_endless, neighbours)) else "."
    return Chart(drawn.svg, caption)


def _endless(neighbour: Neighbour) -> bool:
    """Whether the interval has a lower end but no upper: some draws of the law never reach the loss."""
    return neighbour.low is not None and neighbour.high is None


def _split(change: str) -> tuple[str, str]:
    """``hidden_size 96 -> 112`` as its group and its value."""
    before, arrow, after = change.partition(" -> ")
    key, _, own = before.rpartition(" ")
    return (f"{key} (plan: {own})", after) if arrow and key else ("instead", change)


def _regret_row(axes: Axes, y: float, neighbour: Neighbour, right: float) -> None:
    regret, low, high = neighbour.regret, neighbour.low, neighbour.high
    text = f"{neighbour.change}: {percent(regret)} ({percent(low)} to {percent(high)})"
    if regret is None:
        axes.text(right * 0.8, y, "never reaches this loss", ha="right", va="center", color=MUTED, fontsize=11)
    if low is not None:
        end = right if high is None else 100 * high
        axes.plot([100 * low, end], [y, y], color=BLUE, linewidth=2.5, solid_capstyle="butt", gid=tip(text))
        if high is None:
            axes.plot([right], [y], marker=">", color=BLUE, markersize=7, clip_on=False)
    if regret is not None:
        axes.plot([100 * regret], [y], "o", color=BLUE, markersize=7.5, gid=tip(text), zorder=3)


def curve_chart(name: str, prediction: Prediction) -> Chart:
    """The predicted loss of runs that end at each number of tokens."""
    points = prediction.curve
    tokens = np.array([point.tokens for point in points], dtype=float)
    value, low, high = (np.array([getattr(point, key) for point in points]) for key in ("value", "low", "high"))
    alt = (
        f"Predicted {_words(prediction.quantity)} from {short(tokens[0])} to {short(tokens[-1])} tokens, ending at "
        f"{quantity(value[-1])} with interval {quantity(low[-1])} to {quantity(high[-1])}."
    )
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        axes.fill_between(tokens, low, high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(tokens, value, color=BLUE)
        end = f"{quantity(value[-1])} ({quantity(low[-1])} to {quantity(high[-1])}) at {short(tokens[-1])} tokens"
        axes.errorbar(
            tokens[-1:], value[-1:], [value[-1:] - low[-1:], high[-1:] - value[-1:]], color=BLUE, capsize=4, linewidth=2
        )
        axes.plot(tokens[-1:], value[-1:], "o", color=BLUE, markersize=8, gid=tip(end))
        axes.annotate(
            quantity(value[-1]), (tokens[-1], high[-1]), (0, 7), textcoords="offset points", ha="right", fontsize=12.5
        )
        log_axis(axes, "x", short)
        axes.set_xlabel("tokens of a run that ends there, learning rate decayed")
        axes.set_ylabel(prediction.unit.partition(",")[0])
    caption = (
        "The promise to check the run against: what this model should reach if it is stopped, decayed, at each number "
        f"of tokens. Band: {prediction.interval}."
    )
    return Chart(drawn.svg, caption)


def _words(quantity_name: str) -> str:
    return quantity_name.replace("_", " ")


def reach_chart(name: str, points: list[RunPoint], law: Frontier, plan: TrainingPlan) -> Chart:
    """The runs, the law's best at each budget and the plan on one axis of compute: the gap is the extrapolation."""
    beyond = plan.extrapolation.decades_in_train_flops
    prediction, spent = plan.prediction, plan.budget.train_flops
    largest = max(each.train_flops for each in points)
    alt = (
        f"Loss against training compute: {len(points)} runs up to {flops(largest)} FLOPs, "
        f"and the plan {beyond:.1f} decades beyond, predicted {quantity(prediction.value)}."
    )
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        axes.axvspan(largest, spent, color=MUTED, alpha=0.1, linewidth=0)
        axes.fill_between(law.train_flops, law.low, law.high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(law.train_flops, law.loss, color=BLUE)
        for each in points:
            mark(axes, each.train_flops, each.measured, f"{each.run_id}: {quantity(each.measured)}", colour=INK)
        error = [[prediction.value - prediction.low], [prediction.high - prediction.value]]
        axes.errorbar([spent], [prediction.value], error, color=VERMILLION, capsize=5, linewidth=2)
        text = f"plan: {quantity(prediction.value)} ({quantity(prediction.low)} to {quantity(prediction.high)})"
        axes.plot([spent], [prediction.value], "D", color=VERMILLION, markersize=8, gid=tip(text))
        axes.annotate("plan", (spent, prediction.high), (0, 8), textcoords="offset points", ha="center")
        log_axis(axes, "x")
        if beyond > 0.3:
            middle = (largest * spent) ** 0.5
            axes.annotate(
                f"{beyond:.1f} decades\nwithout a run",
                (middle, 0.97),
                xycoords=axes.get_xaxis_transform(),
                ha="center",
                va="top",
                color=MUTED,
            )
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel(prediction.unit.partition(",")[0])
    caption = (
        "How far the answer reaches. Dots are measured runs; the line is the best that the law predicts at each "
        "budget, with its band; the diamond is the plan. At the compute in the grey stretch nothing was measured."
    )
    return Chart(drawn.svg, caption)


@dataclass(frozen=True)
class _Opinion:
    """Where a law places the optimum."""

    law: str
    tokens: float
    params: float
    kind: str
    """One of ``_KINDS``, or ``plan``."""


_KINDS = {"moe": "laws of mixtures of experts", "dense": "laws of dense models", "built": "models as built"}


def _kind(advice: Advice) -> str:
    if is_built(advice):
        return "built"
    return "dense" if advice.note.startswith("dense") else "moe"


def spread_chart(name: str, advice: tuple[Advice, ...], plan: TrainingPlan) -> Chart | None:
    """Active parameters and tokens that each published law advises at one budget, and what others built."""
    opinions = [
        _Opinion(each.law, each.tokens, each.params_active, _kind(each))
        for each in advice
        if each.params_active and each.tokens
    ]
    if not opinions:
        return None
    built = sum(each.kind == "built" for each in opinions)
    alt = f"Active parameters against tokens: {len(opinions) - built} published laws, {built} built models, this plan."
    own = _Opinion("this plan", plan.tokens, plan.model.params_active, "plan")
    with canvas(name, alt, width=900, height=430) as drawn:
        axes = drawn.axes
        for each in opinions:
            colour, marker, size = (VERMILLION, "*", 13) if each.kind == "built" else (BLUE, "o", 8)
            text = f"{each.law}: {short(each.params)} active on {short(each.tokens)} tokens"
            gid = of_kind(each.kind, tip(text))
            axes.plot([each.tokens], [each.params], marker=marker, color=colour, markersize=size, gid=gid)
        ring = tip(f"this plan: {short(own.params)} active on {short(own.tokens)} tokens")
        axes.plot([own.tokens], [own.params], marker="D", color=GREEN, markersize=10, gid=ring)
        every = [*opinions, own]
        tokens, params = [each.tokens for each in every], [each.params for each in every]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(tokens) / 1.6, max(tokens) * 1.9)
        axes.set_ylim(min(params) / 1.6, max(params) * 1.6)
        for each, x, y, align in _labels(every, axes.get_xlim(), axes.get_ylim()):
            weight = "bold" if each is own else "normal"
            label = axes.text(x, y, each.law, transform=axes.transAxes, ha=align, va="center", fontweight=weight)
            label.set_gid(of_kind(each.kind))
        log_axis(axes, "x", short)
        log_axis(axes, "y", short)
        axes.set_xlabel("tokens")
        axes.set_ylabel("active parameters")
    caption = (
        "The spread of opinion: the same budget put to every published law that applies, each in its own convention "
        "(dots), the models that others built with a similar budget (stars), and this plan (diamond). Down the "
        "diagonal the budget is the same; where along it to stand is what the laws disagree about."
    )
    there = {each.kind for each in opinions}
    return Chart(drawn.svg, caption, tuple((kind, label) for kind, label in _KINDS.items() if kind in there))


def _labels(
    opinions: list[_Opinion], x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> Iterator[tuple[_Opinion, float, float, str]]:
    """(opinion, x, y, alignment) of each label, in fractions of the axes: beside its point where there is room."""
    wide, tall, gap = 0.0085, 0.04, 0.014  # of one letter, of one line, between point and label
    points = [
        (
            math.log(each.tokens / x_limits[0]) / math.log(x_limits[1] / x_limits[0]),
            math.log(each.params / y_limits[0]) / math.log(y_limits[1] / y_limits[0]),
        )
        for each in opinions
    ]
    taken = [(x - 0.008, x + 0.008, y) for x, y in points]
    for each, (x, y) in zip(opinions, points, strict=True):
        length = wide * len(each.law)
        places = [
            (x + gap if align == "left" else x - gap, y + lift, align)
            for lift in (0.0, 0.5 * tall, -0.5 * tall, tall, -tall)
            for align in ("left", "right")
        ]
        spans = [(px, px + length, py) if align == "left" else (px - length, px, py) for px, py, align in places]
        free = [
            index
            for index, (left, right, height) in enumerate(spans)
            if left > 0 and all(right < a or left > b or abs(height - at) >= 0.9 * tall for a, b, at in taken)
        ]
        chosen = free[0] if free else 0
        taken.append(spans[chosen])
        yield each, *places[chosen]
