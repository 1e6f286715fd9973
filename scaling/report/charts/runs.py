"""Charts of the evidence: the runs, and how well the law describes them."""

import altair as alt
import numpy as np
import pandas as pd

from scaling.report.charts import draw
from scaling.report.numbers import flops, percent, quantity, short
from scaling.report.points import RunPoint


def runs_chart(name: str, points: list[RunPoint], unit: str) -> draw.Chart:
    """Loss of every run against its compute, by what the run was bought for."""
    tips = [f"{quantity(each.measured)} {unit}, {flops(each.train_flops)} FLOPs" for each in points]
    x, y = draw.log(alt.X, "train_flops", "training FLOPs"), draw.linear(alt.Y, "measured", unit)
    description = f"{len(points)} runs: {unit} against training FLOPs, by purpose."
    caption = (
        "Every run, by what it was bought for. Rest the pointer on a mark for the run's name and figures; "
        "drag to move, turn the wheel with Ctrl held to zoom, double-click to go back."
    )
    return draw.figure(name, description, caption, _by_purpose(points, tips, x, y))


def size_chart(name: str, points: list[RunPoint]) -> draw.Chart:
    """Where the runs lie in active parameters and tokens."""
    tips = [f"{short(each.params)} on {short(each.tokens)} tokens" for each in points]
    x = draw.log(alt.X, "tokens", "tokens", draw.COUNT)
    y = draw.log(alt.Y, "params", "active parameters, no embeddings", draw.COUNT)
    description = f"{len(points)} runs by active parameters without embeddings and training tokens."
    caption = (
        "What was varied: the grid of sizes and token horizons identifies the loss in both; the other runs change "
        "one thing from a run of the grid."
    )
    return draw.figure(name, description, caption, _by_purpose(points, tips, x, y))


def agreement_chart(name: str, points: list[RunPoint], predicted: np.ndarray, unit: str) -> draw.Chart:
    """Measured against predicted; a run on the diagonal is described exactly."""
    both = list(zip(points, predicted.tolist(), strict=True))
    tips = [f"measured {quantity(each.measured)}, predicted {quantity(expected)}" for each, expected in both]
    runs = _table(points, tips).assign(predicted=predicted)
    ends = [float(end(runs[["measured", "predicted"]].to_numpy())) for end in (np.min, np.max)]
    x, y = draw.linear(alt.X, "predicted", f"predicted, {unit}"), draw.linear(alt.Y, "measured", f"measured, {unit}")
    diagonal = alt.Chart(pd.DataFrame({"predicted": ends, "measured": ends}))
    description = (
        f"Measured against predicted for {len(runs)} runs, close to the diagonal where the law describes them."
    )
    caption = "Measured against predicted. The line is equality; what lies off it the law does not explain."
    return draw.figure(
        name,
        description,
        caption,
        diagonal.mark_line(color=draw.MUTED, strokeWidth=1).encode(x=x, y=y),
        draw.points(runs, zoom=True).encode(x=x, y=y),
    )


def residual_chart(name: str, points: list[RunPoint], residuals: np.ndarray, noise: float | None) -> draw.Chart:
    """Residuals in per cent against compute, with twice the seed noise as a band.

    Args:
        residuals: log(measured / predicted) of each point.
        noise: relative standard deviation of one run between seeds; None when no seed was repeated.
    """
    tips = [f"{each.purpose}, {percent(residual)}" for each, residual in zip(points, residuals.tolist(), strict=True)]
    x = draw.log(alt.X, "train_flops", "training FLOPs")
    y = draw.linear(alt.Y, "residual", "measured over predicted, %")
    layers = [
        alt.Chart(pd.DataFrame({"residual": [0]})).mark_rule().encode(y=y),
        _by_purpose(points, tips, x, y, residual=100 * residuals),
    ]
    caption = "Residuals, marked as in the chart of the runs. "
    if noise is None:
        caption += "No seed was repeated, so there is no noise to compare with."
    else:
        band = alt.Chart(pd.DataFrame({"residual": [-200 * noise], "high": [200 * noise]}))
        layers.insert(0, band.mark_rect(color=draw.MUTED, opacity=0.14).encode(y=y, y2="high"))
        caption += (
            "The band is twice the noise between seeds: a law can do no better than fill it, and runs outside it are "
            "what the law misses."
        )
    scatter = percent(float(np.sqrt(np.mean(residuals**2))))
    description = f"Residuals of {len(points)} runs against training FLOPs; root mean square {scatter}."
    return draw.figure(name, description, caption, *layers)


def _table(points: list[RunPoint], tips: list[str]) -> pd.DataFrame:
    names = [f"{each.run_id}: {tip}" for each, tip in zip(points, tips, strict=True)]
    return pd.DataFrame(points).rename(columns={"purpose": "series"}).assign(tip=names)


def _by_purpose(points: list[RunPoint], tips: list[str], x: alt.X, y: alt.Y, **columns: np.ndarray) -> alt.Chart:
    """A mark for each run, its colour and shape by purpose, the same in every chart."""
    purposes = draw.by_series((each.purpose for each in points), shapes=draw.SHAPES)
    return draw.points(_table(points, tips).assign(**columns), zoom=True).encode(x=x, y=y, **purposes)
