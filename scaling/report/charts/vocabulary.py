"""Charts of the vocabulary study: what a larger vocabulary buys in bytes per token and in entropy."""

import numpy as np
from matplotlib.axes import Axes

from scaling.report.charts.svg import INK, SERIES, Chart, canvas, log_axis
from scaling.report.numbers import quantity, vocabulary
from vocab_study.study.study import ALL, Study

_MOST_GROUPS = 5
_POINTS = 80


def compression_chart(name: str, study: Study, chosen: int | None) -> Chart:
    """Held-out bytes per token against vocabulary size, by group."""
    last = study.sizes[-1]
    alt = (
        f"Bytes per token against vocabulary size on held-out text, from {study.sizes[0]} to {last}: "
        f"{quantity(study.bytes_per_token(int(last)))} at the largest."
    )
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        sizes, index = _spaced(study)
        for number, group in enumerate(_largest_groups(study)):
            values = study.summary.text["validation"][group].bytes / study.column("tokens", group)[index]
            whole = group == ALL
            axes.plot(
                sizes,
                values,
                color=INK if whole else SERIES[number % len(SERIES)],
                linewidth=2.4 if whole else 1.4,
                label="all text" if whole else group,
            )
        _finish(axes, chosen, "bytes per token")
        axes.legend(loc="best")
    caption = (
        "Compression on held-out text: UTF-8 bytes that one token carries, by group of documents. "
        "Straight on this axis means that each doubling of the vocabulary buys the same."
    )
    return Chart(drawn.svg, caption)


def entropy_chart(name: str, study: Study, chosen: int | None) -> Chart:
    """Entropy of the unigram distribution against vocabulary size, all held-out text."""
    sizes, index = _spaced(study)
    values = study.column("entropy")[index]
    alt = (
        f"Unigram entropy against vocabulary size, from {quantity(values[0])} to {quantity(values[-1])} nats per token."
    )
    with canvas(name, alt) as drawn:
        axes = drawn.axes
        axes.plot(sizes, values, color=INK, linewidth=2.4)
        _finish(axes, chosen, "entropy, nats per token")
    caption = (
        "Entropy of the unigram distribution: the loss of a model that knows only how often each token comes. "
        "It rises with the vocabulary, which is why losses per token of two tokenizers cannot be compared."
    )
    return Chart(drawn.svg, caption)


def _spaced(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """About evenly spaced sizes on a logarithmic axis, and their places in the curves."""
    sizes = study.sizes
    index = np.unique(np.geomspace(1, len(sizes), _POINTS).astype(int) - 1)
    return sizes[index], index


def _largest_groups(study: Study) -> list[str]:
    text = study.summary.text["validation"]
    groups = sorted((group for group in study.groups if group != ALL), key=lambda group: -text[group].bytes)
    return [*groups[:_MOST_GROUPS], ALL] if len(groups) > 1 else [ALL]


def _finish(axes: Axes, chosen: int | None, label: str) -> None:
    axes.set_xscale("log")
    log_axis(axes, "x", vocabulary, ticks=[2**power for power in range(8, 20)])
    axes.set_xlabel("vocabulary size")
    axes.set_ylabel(label)
    low, high = axes.get_xlim()
    if chosen is not None and low <= chosen <= high:
        axes.axvline(chosen, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "plan", (chosen, 0.02), (-4, 0), xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha="right"
        )
    axes.set_xlim(low, high)
