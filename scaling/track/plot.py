"""The run against its promise: the curve with its band, the run's blocks, and the predicted end."""

from pathlib import Path
from typing import TYPE_CHECKING

from scaling.plan import TrainingPlan
from scaling.track.compare import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(plan: TrainingPlan, found: Comparison, axes: "Axes | None" = None) -> "Axes":
    """Draw the comparison; returns the axes (tokens in a logarithmic scale, the plan's unit)."""
    import matplotlib.pyplot as plt

    axes = axes or plt.subplots(figsize=(7, 4.5), layout="constrained")[1]
    points = sorted(plan.prediction.curve, key=lambda point: point.tokens)
    tokens = [point.tokens for point in points]
    axes.fill_between(tokens, [point.low for point in points], [point.high for point in points], alpha=0.2, lw=0)
    axes.plot(tokens, [point.value for point in points], label="promised, decayed at these tokens")
    for decayed, mark, name in ((0, "o", "run, means of rows"), (1, "D", "run, decayed")):
        mine = [block for block in found.blocks if block[4] == decayed]
        if not mine:
            continue
        axes.plot([block[0] for block in mine], [block[1] for block in mine], mark, ms=4, color="C1", label=name)
        if not decayed:
            expected = [block[2] for block in mine]
            axes.plot(
                [block[0] for block in mine], expected, "--", color="C0", lw=1, label="expected of the undecayed run"
            )
    if found.end is not None and found.end_low is not None and found.end_high is not None:
        spread = [[found.end - found.end_low], [found.end_high - found.end]]
        axes.errorbar(
            [tokens[-1]], [found.end], yerr=spread, fmt="s", ms=5, capsize=3, color="C2", label="predicted end"
        )
    axes.set_xscale("log")
    axes.set_xlabel("tokens")
    axes.set_ylabel(f"{plan.prediction.quantity.replace('_', ' ')} ({plan.prediction.unit})")
    axes.set_title(f"{plan.name}: {found.verdict}")
    axes.legend(frameon=False, fontsize=8)
    return axes


def save_plot(plan: TrainingPlan, found: Comparison, path: str | Path) -> None:
    """Write the plot as PNG or SVG, by the file's ending.

    Raises:
        UserError: another ending.
    """
    import io

    from fits.errors import UserError
    from fits.files import write_bytes

    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"--out is '{path}': must end in .png, .svg or .pdf.")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = plot(plan, found)
    buffer = io.BytesIO()
    figure = axes.figure
    figure.savefig(buffer, format=kind, dpi=150)  # pyright: ignore[reportAttributeAccessIssue]
    plt.close(figure)  # pyright: ignore[reportArgumentType]
    write_bytes(path, buffer.getvalue())
