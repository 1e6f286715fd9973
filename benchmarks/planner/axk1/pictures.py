"""The two pictures of docs/case_axk1.md."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fits.decisions.published_allocations import allocations
from scaling.planner.search import Search
from trainer_small.architecture import Architecture

_GROUND = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0)
_CROWDED = ("joint-moe, E=1", "gadre-c4")
"""Beside others of their kind."""
_CELL = 0.1
"""Width of a cell of the map, in natural logarithms of either size."""


def draw_regret(found: Search, built: Architecture, path: Path) -> None:
    """Extra compute of the best shape of each size (active x total), with the built model and the plan on it."""
    table, rows = found.table, np.flatnonzero(found.usual)
    active, total = np.log(table.params_active[rows]), np.log(table.params_total[rows])
    keys = np.stack([np.round(active / _CELL), np.round(total / _CELL)])
    order = np.lexsort((found.loss[rows], *keys))
    _, first = np.unique(keys[:, order], axis=1, return_index=True)
    best = rows[order[first]]
    regret = found.regret(best, to=found.lowest)
    figure, axes = plt.subplots(figsize=(7.2, 5.0), constrained_layout=True)
    x, y = table.params_active[best] / 1e9, table.params_total[best] / 1e9
    shown = np.clip(regret, 0.005, 10)
    norm = matplotlib.colors.LogNorm(0.01, 10)
    points = axes.scatter(x, y, c=shown, s=42, cmap="viridis_r", norm=norm, marker="s", linewidths=0)
    bar = figure.colorbar(points, label="extra compute for the same loss")
    bar.set_ticks(_LEVELS, labels=[f"{level:.0%}" for level in _LEVELS])
    bar.minorticks_off()
    axes.axhline(520, color="#5d6670", linewidth=1, linestyle="--")
    axes.annotate("cap: 520B", (150, 520), (-4, 4), textcoords="offset points", ha="right", fontsize=10, bbox=_GROUND)
    chosen = (found.shape.params_active / 1e9, found.shape.params_total / 1e9)
    _mark(axes, chosen, "the plan", "#d55e00", (8, -18))
    _mark(axes, (built.params_active / 1e9, built.params_total / 1e9), "A.X K1 as built", "#000000", (8, -18))
    axes.set(xscale="log", yscale="log", xlabel="active parameters, billions", ylabel="total parameters, billions")
    axes.set_xlim(4, 150)
    axes.set_ylim(100, 850)
    axes.set_xticks([5, 10, 20, 50, 100])
    axes.set_yticks([100, 200, 300, 500, 800])
    _plain_ticks(axes)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_spread(searches: dict[str, Search], built: Architecture, tokens: float, flops: float, path: Path) -> None:
    """Active parameters against tokens: published allocations, the priced plans, the built model, C = 6 N D."""
    figure, axes = plt.subplots(figsize=(7.2, 5.0), constrained_layout=True)
    sizes = np.geomspace(5e9, 6e11, 50)
    axes.plot(sizes / 1e9, flops / (6 * sizes) / 1e12, color="#d5dade", linewidth=1.5, zorder=0)
    axes.annotate("6 N D = 2.548e24", (16, 42), fontsize=10, color="#5d6670")
    for index, each in enumerate(each for each in allocations(flops)[0] if each.tokens and each.name not in _CROWDED):
        colour = "#0072b2" if each.models == "moe" else "#8a929a"
        point = (each.params / 1e9, (each.tokens or 0.0) / 1e12)
        _mark(
            axes,
            point,
            each.name,
            colour,
            (-6, -11) if index % 2 == 0 or each.name == "marin" else (6, 4),
            size=5,
            small=True,
        )
    for law, found in searches.items():
        point = (found.shape.params_active / 1e9, float(found.tokens[found.best]) / 1e12)
        _mark(axes, point, f"plan by {law}", "#d55e00", (7, 3), marker="D", size=6, small=True)
    _mark(axes, (built.params_active / 1e9, tokens / 1e12), "A.X K1 as built", "#000000", (-8, -14), size=9)
    axes.set(xscale="log", yscale="log", xlabel="active parameters, billions", ylabel="tokens, trillions")
    axes.set_ylim(0.5, 90)
    _plain_ticks(axes)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _mark(axes, point, words, colour, offset, *, marker="o", size=8.0, small=False) -> None:
    axes.plot(*point, marker, color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8)
    side = "left" if offset[0] >= 0 else "right"
    font = 8 if small else 10
    axes.annotate(words, point, offset, textcoords="offset points", ha=side, fontsize=font, color=colour, bbox=_GROUND)


def _plain_ticks(axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
