"""Figures of a vocabulary study: compression, compute, loss, and the predictors side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vocab_study.choice.choice import VocabularyChoice
from vocab_study.choice.exact_curves import text_curve
from vocab_study.choice.isoflop import Slice
from vocab_study.study.study import ALL, Study

WHOLE: dict[str, Any] = {"color": "black", "linewidth": 2.0}
PART: dict[str, Any] = {"linewidth": 1.3}


def compression_figure(study: Study, *, sizes: Sequence[int] = ()) -> Figure:
    """Held-out bytes per token and unigram entropy at every size, a line a group; ``sizes`` are marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    compression, entropy = figure.subplots(1, 2)
    shown = _shown(study)
    for group in study.groups:
        style = WHOLE if group == ALL else PART
        text = study.summary.text["validation"][group]
        compression.plot(study.sizes[shown], text.bytes / study.column("tokens", group)[shown], label=group, **style)
        entropy.plot(study.sizes[shown], study.column("entropy", group)[shown], label=group, **style)
    for axes, name in ((compression, "bytes per token"), (entropy, "unigram entropy (nats)")):
        for size in sizes:
            axes.axvline(size, color="0.8", linewidth=1, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("vocabulary size")
        axes.set_ylabel(f"held-out {name}")
        axes.grid(alpha=0.25)
    compression.legend(frameon=False)
    return figure


def _shown(study: Study) -> np.ndarray:
    """Indices of as many sizes as an eye can part, even in their logarithm: all sizes make a picture of megabytes."""
    sizes = study.sizes
    return np.unique(np.geomspace(sizes[0], sizes[-1], 2000).round().astype(int)) - sizes[0]


def compute_figure(study: Study, params: float, hidden_size: int) -> Figure:
    """Training compute of a byte above the least, at every size and for each group: how flat the optimum is.

    Args:
        study: the study.
        params: parameters outside the vocabulary that a token passes.
        hidden_size: width of the model.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for group in study.groups:
        style = WHOLE if group == ALL else PART
        compute = text_curve(study, {group: 1.0}).compute(params, hidden_size)
        shown = _shown(study)
        axes.plot(study.sizes[shown], 100 * (compute / compute.min() - 1)[shown], label=group, **style)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 10)
    axes.set_xlabel("vocabulary size")
    axes.set_ylabel("training FLOPs per byte above the least (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def loss_figure(slices: Sequence[Slice], *, loss: str = "bits per byte") -> Figure:
    """Loss against the vocabulary for each model at its budget: runs near the optimum and their parabola in ln V."""
    figure = Figure(figsize=(4.2 * len(slices), 3.6), layout="constrained")
    for axes, slice in zip(np.atleast_1d(np.asarray(figure.subplots(1, len(slices)))), slices, strict=True):
        sizes = np.exp(slice.log_sizes)
        axes.plot(sizes, slice.losses, "o", color="black", markersize=4, alpha=0.7, label="runs")
        if len(np.unique(slice.log_sizes)) >= 3:
            fine = np.linspace(slice.log_sizes.min(), slice.log_sizes.max(), 200)
            curve = np.polyval(np.polyfit(slice.log_sizes, slice.losses, 2), fine)
            axes.plot(np.exp(fine), curve, color="tab:blue", linewidth=1.2, label="parabola in ln V")
        if slice.vocab_size is not None:
            axes.axvline(slice.vocab_size, color="tab:blue", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_title(f"{slice.params / 1e6:.3g}M outside the vocabulary, width {slice.hidden_size:g}", fontsize=9)
        axes.set_xlabel("vocabulary size")
        axes.set_ylabel(loss)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    return figure


def predictors_figure(choice: VocabularyChoice) -> Figure:
    """Every predictor's best size with its interval; one that its runs do not determine is drawn hollow."""
    rows = [
        (f"{law.title} ({law.params_are})", law.vocab_size, law.low, law.high, law.identified) for law in choice.laws
    ]
    if choice.runs:
        rows.append(("Your runs", choice.runs.vocab_size, choice.runs.low, choice.runs.high, True))
    if choice.fitted:
        rows.append(
            (f"Your law {choice.fitted.law}", choice.fitted.vocab_size, choice.fitted.low, choice.fitted.high, True)
        )
    if choice.optimum:
        flat = (choice.optimum.vocab_size, choice.optimum.lowest_flat, choice.optimum.highest_flat, True)
        rows.append(("Exact compute per byte, within 0.1 %", *flat))
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (_, size, low, high, identified) in enumerate(reversed(rows)):
        color = "tab:blue" if identified else "0.6"
        axes.plot([low, high], [place, place], color=color, linewidth=2 if identified else 1)
        axes.plot(size, place, "o", color=color, markerfacecolor=color if identified else "white")
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("best size, 90 % interval (grey: not identified)")
    axes.grid(alpha=0.25, axis="x")
    return figure
