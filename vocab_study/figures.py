"""Figures of a study: compression and unigram entropy against the vocabulary size, by group."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from vocab_study.exact import text_curve
from vocab_study.study import ALL, Study

WHOLE: dict[str, Any] = {"color": "black", "linewidth": 2.0}
PART: dict[str, Any] = {"linewidth": 1.3}


def compression_figure(study: Study, *, sizes: Sequence[int] = ()) -> Figure:
    """Held-out bytes per token and unigram entropy at every size, a line a group; ``sizes`` are marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    compression, entropy = figure.subplots(1, 2)
    for group in study.groups:
        style = WHOLE if group == ALL else PART
        text = study.summary.text["validation"][group]
        compression.plot(study.sizes, text.bytes / study.column("tokens", group), label=group, **style)
        entropy.plot(study.sizes, study.column("entropy", group), label=group, **style)
    for axes, name in ((compression, "bytes per token"), (entropy, "unigram entropy (nats)")):
        for size in sizes:
            axes.axvline(size, color="0.8", linewidth=1, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("vocabulary size")
        axes.set_ylabel(f"held-out {name}")
        axes.grid(alpha=0.25)
    compression.legend(frameon=False)
    return figure


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
        axes.plot(study.sizes, 100 * (compute / compute.min() - 1), label=group, **style)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 10)
    axes.set_xlabel("vocabulary size")
    axes.set_ylabel("training FLOPs per byte above the least (%)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
