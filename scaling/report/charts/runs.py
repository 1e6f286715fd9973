"""Charts of the evidence: the runs, and how well the law describes them."""

import numpy as np

from scaling.report.charts.svg import BLUE, INK, MARKERS, MUTED, SERIES, Chart, canvas, log_axis, mark
from scaling.report.numbers import flops, percent, quantity, short
from scaling.report.points import RunPoint


def runs_chart(name: str, points: list[RunPoint], unit: str) -> Chart:
    """Loss of every run against its compute, by what the run was bought for."""
    purposes = _purposes(points)
    with canvas(name, f"{len(points)} runs: {unit} against training FLOPs, by purpose.") as drawn:
        axes = drawn.axes
        for purpose, index in purposes.items():
            axes.plot(
                [], [], linestyle="none", markersize=6.5, label=purpose, color=SERIES[index], marker=MARKERS[index]
            )
        for each in points:
            text = f"{each.run_id}: {quantity(each.measured)} {unit}, {flops(each.train_flops)} FLOPs"
            mark(axes, each.train_flops, each.measured, text, purposes[each.purpose])
        log_axis(axes, "x")
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel(unit)
        axes.legend(loc="best")
    caption = "Every run, by what it was bought for. Rest the pointer on a mark for the run's name and figures."
    return Chart(drawn.svg, caption)


def size_chart(name: str, points: list[RunPoint]) -> Chart:
    """Where the runs lie in active parameters and tokens."""
    purposes = _purposes(points)
    alt = f"{len(points)} runs by active parameters without embeddings and training tokens."
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        for each in points:
            text = f"{each.run_id}: {short(each.params)} on {short(each.tokens)} tokens"
            mark(axes, each.tokens, each.params, text, purposes[each.purpose])
        log_axis(axes, "x", short)
        log_axis(axes, "y", short)
        axes.set_xlabel("tokens")
        axes.set_ylabel("active parameters, no embeddings")
    caption = (
        "What was varied: the grid of sizes and token horizons identifies the loss in both; the other runs change "
        "one thing from a run of the grid. Marks as in the chart beside it."
    )
    return Chart(drawn.svg, caption)


def agreement_chart(name: str, points: list[RunPoint], predicted: np.ndarray, unit: str) -> Chart:
    """Measured against predicted; a run on the diagonal is described exactly."""
    both = np.concatenate([[each.measured for each in points], predicted])
    margin = 0.05 * (both.max() - both.min())
    low, high = float(both.min() - margin), float(both.max() + margin)
    alt = f"Measured against predicted for {len(points)} runs, close to the diagonal where the law describes them."
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1)
        for each, expected in zip(points, predicted.tolist(), strict=True):
            text = f"{each.run_id}: measured {quantity(each.measured)}, predicted {quantity(expected)}"
            mark(axes, expected, each.measured, text, colour=BLUE)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel(f"predicted, {unit}")
        axes.set_ylabel(f"measured, {unit}")
    caption = "Measured against predicted. The line is equality; what lies off it the law does not explain."
    return Chart(drawn.svg, caption)


def residual_chart(name: str, points: list[RunPoint], residuals: np.ndarray, noise: float | None) -> Chart:
    """Residuals in per cent against compute, with twice the seed noise as a band.

    Args:
        residuals: log(measured / predicted) of each point.
        noise: relative standard deviation of one run between seeds; None when no seed was repeated.
    """
    purposes = _purposes(points)
    scatter = percent(float(np.sqrt(np.mean(residuals**2))))
    alt = f"Residuals of {len(points)} runs against training FLOPs; root mean square {scatter}."
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        if noise is not None:
            axes.axhspan(-200 * noise, 200 * noise, color=MUTED, alpha=0.14, linewidth=0)
        axes.axhline(0, color=INK, linewidth=1)
        for each, residual in zip(points, residuals.tolist(), strict=True):
            text = f"{each.run_id} ({each.purpose}): {percent(residual)}"
            mark(axes, each.train_flops, 100 * residual, text, purposes[each.purpose])
        log_axis(axes, "x")
        axes.set_xlabel("training FLOPs")
        axes.set_ylabel("measured over predicted, %")
    band = (
        "The band is twice the noise between seeds: a law can do no better than fill it, and runs outside it are "
        "what the law misses."
        if noise is not None
        else "No seed was repeated, so there is no noise to compare with."
    )
    return Chart(drawn.svg, f"Residuals, marked as in the chart of the runs. {band}")


def _purposes(points: list[RunPoint]) -> dict[str, int]:
    """Purpose -> its colour and marker, the same in every chart; past the palette they repeat."""
    found = dict.fromkeys(each.purpose for each in points)
    return {purpose: index % len(SERIES) for index, purpose in enumerate(found)}
