"""Pictures of fits with matplotlib, readable in print and for the colour-blind; each returns its ``Axes``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fits.decisions.allocation import Surface, flat_region, optimal_allocation
from fits.decisions.isoflop import Frontier, slices
from fits.errors import UserError
from fits.fitting.backtest import Score
from fits.fitting.profiling import Profile
from fits.fitting.result import Fit
from fits.tables.binding import bind_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: distinct under every common colour vision.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
_MARKERS = "osD^vP*X"


def _axes(axes: "Axes | None") -> "Axes":
    if axes is not None:
        return axes
    # A figure of its own, outside pyplot's registry: nothing to close and no window to open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _finish(axes: "Axes", x: str, y: str, title: str) -> "Axes":
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _bound(fit: Fit, data: pd.DataFrame) -> tuple[dict[str, Any], np.ndarray]:
    bound = bind_table(fit.as_law, data, loss=fit.data.loss, bind=fit.bind, duplicates="keep")
    return bound.variables, bound.loss


def plot_fit(fit: Fit, data: pd.DataFrame, *, axes: "Axes | None" = None) -> "Axes":
    """Measured against fitted, with the band of the fit and the diagonal."""
    axes = _axes(axes)
    variables, loss = _bound(fit, data)
    fitted = np.asarray(fit.predict(**variables))
    if len(fit.draws) > 1:
        low, high = fit.band(**variables)
        errors = np.maximum(np.stack([fitted - low, high - fitted]), 0)
        axes.errorbar(fitted, loss, xerr=errors, fmt="none", ecolor=GREY, alpha=0.5, linewidth=0.8)
    axes.scatter(fitted, loss, s=16, color=BLUE, edgecolor="white", linewidth=0.4, zorder=3)
    ends = [min(fitted.min(), loss.min()), max(fitted.max(), loss.max())]
    axes.plot(ends, ends, color=ORANGE, linewidth=1.2)
    return _finish(axes, f"fitted {fit.unit}", f"measured {fit.unit}", f"{fit.law}: {fit.n_runs} runs")


def plot_residuals(fit: Fit, data: pd.DataFrame, *, axes: "Axes | None" = None) -> "Axes":
    """Relative residuals against the fitted value, with lines at two standard deviations."""
    axes = _axes(axes)
    variables, loss = _bound(fit, data)
    fitted = np.asarray(fit.predict(**variables))
    residual = loss / fitted - 1
    axes.axhline(0, color=ORANGE, linewidth=1.2)
    for side in (-2, 2):
        axes.axhline(side * residual.std(), color=GREY, linewidth=0.8, linestyle="--")
    axes.scatter(fitted, residual, s=16, color=BLUE, edgecolor="white", linewidth=0.4, zorder=3)
    return _finish(axes, f"fitted {fit.unit}", "measured / fitted - 1", "residuals")


def plot_isoflop(
    frontier: Frontier, flops: np.ndarray, size: np.ndarray, loss: np.ndarray, *, axes: "Axes | None" = None
) -> "Axes":
    """Loss against size at each budget, with the minima."""
    axes = _axes(axes)
    slice_of = slices(flops)
    last = int(slice_of.max())
    for index in range(last + 1):
        chosen = np.flatnonzero(slice_of == index)
        chosen = chosen[np.argsort(size[chosen])]
        shade = 0.25 + 0.65 * index / max(last, 1)
        axes.plot(
            size[chosen],
            loss[chosen],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=3,
            linewidth=0.9,
            color=(0, 0.45 * shade, 0.7 * shade),
            label=f"{flops[chosen[0]]:.0e}",
        )
    inside = [each for each in frontier.minima if each.interior]
    axes.scatter([each.size for each in inside], [each.loss for each in inside], s=45, color=RED, marker="*", zorder=4)
    axes.set_xscale("log")
    axes.legend(title="FLOPs", fontsize="x-small", title_fontsize="x-small", ncols=2, frameon=False)
    exponent = frontier.exponent
    title = f"N* ~ C^{exponent.value:.3f} ({exponent.low:.3f} to {exponent.high:.3f})"
    return _finish(axes, "parameters", "loss", title)


def plot_decision(surface: Surface, flops: float, *, waste: float = 0.01, axes: "Axes | None" = None) -> "Axes":
    """Regret in compute against size at a budget, with the flat region and the interval of the optimum."""
    axes = _axes(axes)
    best = optimal_allocation(surface, flops)
    low, high = flat_region(surface, flops, waste=waste)
    sizes = best.size.value * np.geomspace(0.2, 5, 61)
    top = surface.loss(np.log(sizes), flops)[0]
    # Invert the frontier once instead of solving for every size.
    budgets = flops / np.geomspace(1, 8, 33)
    single = Surface(**{**surface.__dict__, "coefficients": surface.coefficients[:1]})
    frontier = np.array([single.best_loss(budget)[0] for budget in budgets])
    wasted = np.interp(top, frontier, flops / budgets - 1, right=np.nan)
    axes.plot(sizes, 100 * wasted, color=BLUE, linewidth=1.6)
    axes.axvspan(low.value, high.value, color=GREEN, alpha=0.15, label=f"within {waste:.0%}")
    axes.axvline(best.size.value, color=RED, linewidth=1.2, label="optimum")
    if best.size.high > best.size.low:
        axes.axvspan(best.size.low, best.size.high, facecolor="none", edgecolor=RED, hatch="//", alpha=0.25)
    axes.set_xscale("log")
    axes.set_ylim(0, min(np.nanmax(100 * wasted), 100))
    axes.legend(fontsize="small", frameon=False)
    return _finish(axes, "parameters", "compute wasted (%)", f"regret at {flops:.3g} FLOPs")


def plot_contour(fit: Fit, *, axes: "Axes | None" = None, **others: float) -> "Axes":
    """Loss over size and data (the law's N and D or H), with the region of the runs."""
    axes = _axes(axes)
    names = fit.as_law.variable_names
    data = next((name for name in ("D", "H") if name in names), None)
    if "N" not in names or data is None:
        raise UserError(f"A contour needs a law in N and D or H; '{fit.law}' has {', '.join(names)}.")
    (low_n, high_n), (low_d, high_d) = fit.ranges["N"], fit.ranges[data]
    size, tokens = np.geomspace(low_n, high_n * 10, 60), np.geomspace(low_d, high_d * 10, 60)
    grid = fit.predict(N=size[None, :], **{data: tokens[:, None]}, **others)
    axes.set_xscale("log")
    axes.set_yscale("log")
    lines = axes.contour(size, tokens, grid, levels=12, cmap="cividis", linewidths=1.1)
    axes.clabel(lines, fontsize="x-small", fmt="%.2f")
    axes.fill_between([low_n, high_n], low_d, high_d, color=GREY, alpha=0.15, label="runs")
    axes.legend(fontsize="small", frameon=False)
    return _finish(axes, "N", data, f"{fit.response} ({fit.unit})")


def plot_profile(profile: Profile, *, axes: "Axes | None" = None) -> "Axes":
    """The objective with one parameter held, and the limit that bounds its interval."""
    axes = _axes(axes)
    axes.plot(profile.values, profile.objective, color=BLUE, marker="o", markersize=3, linewidth=1.2)
    axes.axhline(profile.limit, color=GREY, linestyle="--", linewidth=0.9)
    axes.axvline(profile.best, color=RED, linewidth=1.1)
    for end in (profile.low, profile.high):
        if end is not None:
            axes.axvline(end, color=ORANGE, linewidth=1.0, linestyle=":")
    return _finish(axes, profile.parameter, "objective", f"profile of {profile.parameter}")


def plot_backtest(score: Score, *, axes: "Axes | None" = None) -> "Axes":
    """Error beyond each compute cut, and its bias."""
    axes = _axes(axes)
    flops = [cut.flops for cut in score.cuts]
    axes.plot(flops, [100 * cut.error for cut in score.cuts], "o-", color=BLUE, label="error beyond the cut")
    axes.plot(flops, [100 * cut.bias for cut in score.cuts], "s--", color=ORANGE, label="bias")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.legend(fontsize="small", frameon=False)
    return _finish(axes, "fitted up to (FLOPs)", "% of the loss", f"backtest of {score.law}")


def save_plots(fit: Fit, data: pd.DataFrame, folder: str | Path, score: Score | None = None) -> list[Path]:
    """Write the pictures of a fit as PNG into a folder; returns their paths.

    Raises:
        UserError: the folder is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the pictures.")
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Any] = {"fit": plot_fit(fit, data), "residuals": plot_residuals(fit, data)}
    if score is not None:
        pictures["backtest"] = plot_backtest(score)
    if set(fit.as_law.variable_names) in ({"N", "D"}, {"N", "H"}):
        pictures["contour"] = plot_contour(fit)
    paths = []
    for name, axes in pictures.items():
        paths.append(folder / f"{name}.png")
        axes.figure.savefig(paths[-1], dpi=150)
    return paths
