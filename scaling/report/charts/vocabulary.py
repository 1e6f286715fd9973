"""Charts of the vocabulary study: what a larger vocabulary buys in bytes per token and in entropy."""

import altair as alt
import numpy as np
import pandas as pd

from scaling.report.charts import draw
from scaling.report.numbers import quantity
from vocab_study.study.study import ALL, Study

_MOST_GROUPS = 5
_POINTS = 80


def compression_chart(name: str, study: Study, chosen: int | None) -> draw.Chart:
    """Held-out bytes per token against vocabulary size, by group."""
    last, text = study.sizes[-1], study.summary.text["validation"]
    groups = sorted((group for group in study.groups if group != ALL), key=lambda group: -text[group].bytes)
    labels = {group: group for group in groups[:_MOST_GROUPS] if len(groups) > 1} | {"all text": ALL}
    lines = {label: text[group].bytes / study.column("tokens", group) for label, group in labels.items()}
    description = (
        f"Bytes per token against vocabulary size on held-out text, from {study.sizes[0]} to {last}: "
        f"{quantity(study.bytes_per_token(int(last)))} at the largest."
    )
    caption = (
        "Compression on held-out text: UTF-8 bytes that one token carries, by group of documents. "
        "Straight on this axis means that each doubling of the vocabulary buys the same."
    )
    return draw.figure(name, description, caption, *_layers(study, lines, "bytes per token", chosen))


def entropy_chart(name: str, study: Study, chosen: int | None) -> draw.Chart:
    """Entropy of the unigram distribution against vocabulary size, all held-out text."""
    values = study.column("entropy")
    ends = f"from {quantity(values[0])} to {quantity(values[-1])} nats per token"
    caption = (
        "Entropy of the unigram distribution: the loss of a model that knows only how often each token comes. "
        "It rises with the vocabulary, which is why losses per token of two tokenizers cannot be compared."
    )
    layers = _layers(study, {"all text": values}, "entropy, nats per token", chosen)
    return draw.figure(name, f"Unigram entropy against vocabulary size, {ends}.", caption, *layers)


def _layers(study: Study, lines: dict[str, np.ndarray], label: str, chosen: int | None) -> list[alt.Chart]:
    """The lines, all text last, and the plan's vocabulary where it lies among the sizes."""
    sizes = study.sizes
    spaced = np.unique(np.geomspace(1, len(sizes), _POINTS).astype(int) - 1)
    table = pd.DataFrame({"size": sizes} | lines).iloc[spaced].melt("size", var_name="series")
    x = draw.log(alt.X, "size", "vocabulary size", draw.SIZE, [2**power for power in range(8, 20)])
    colours = draw.by_series(lines, [*draw.SERIES[: len(lines) - 1], draw.INK])
    layers = [alt.Chart(table).mark_line().encode(x=x, y=draw.linear(alt.Y, "value", label), **colours)]
    if chosen is not None and sizes[0] <= chosen <= sizes[-1]:
        plan = alt.Chart(pd.DataFrame({"size": [chosen]})).encode(x=x)
        word = plan.mark_text(text="plan", align="right", dx=-4, dy=-4, baseline="bottom")
        layers += [plan.mark_rule(strokeDash=[4, 3]), word.encode(y=alt.value("height"))]
    return layers
