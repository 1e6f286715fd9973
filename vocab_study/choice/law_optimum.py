"""The best vocabulary size by a law that the user fitted to runs of several vocabularies."""

import math
from collections.abc import Mapping

import numpy as np

from fits.errors import UserError
from fits.fitting.result import Fit
from fits.laws.expression import evaluate, names, parse
from fits.schema import Schema
from fits.tables.loss_units import UNITS
from vocab_study.choice.exact_curves import TextCurve

_SIZES = 400


class LawOptimum(Schema):
    """The size of least predicted loss at a budget, with the interval of the law's draws."""

    law: str
    vocab_size: int
    low: int
    high: int
    level: float
    inside: float
    """Share of the draws whose best size is not an end of the sizes looked at."""
    extrapolation: dict[str, float]
    """Decades beyond the fitted range, of the variables that are."""


def optimum_by_law(
    fit: Fit,
    params: float,
    hidden_size: int,
    flops: float,
    *,
    text: TextCurve | None,
    setting: Mapping[str, float] | None = None,
    level: float = 0.9,
) -> LawOptimum:
    """Minimise a fitted law over the vocabulary at fixed compute, 6 (N + V d) D.

    Args:
        fit: of a law with the vocabulary among its variables, for bits per byte.
        params: N, parameters outside the vocabulary that a token passes.
        hidden_size: d.
        flops: the training budget.
        text: the study's curve, which says how many bytes D tokens are; its sizes are the ones looked at.
        setting: column -> value for what else the law takes (``activation_ratio``, ``granularity``); what is missing
            is taken in the middle of the fitted range.
        level: of the interval.

    Raises:
        UserError: the law knows no vocabulary, predicts a loss that cannot be compared across vocabularies, or takes
            bytes of text and there is no study.
    """
    seen = {column for meaning in fit.means.values() for column in names(parse(meaning))}
    if "vocab_size" not in seen:
        raise UserError(
            f"the law '{fit.law}' does not know the vocabulary; fit one that does: scaling fit RUNS --law moe-bits"
        )
    if fit.unit != UNITS["bits_per_byte"]:
        raise UserError(
            f"the law was fitted to '{fit.data.loss}', which cannot be compared across vocabularies; fit bits_per_byte."
        )
    if text is None and "train_bytes" in seen:
        raise UserError(f"the law '{fit.law}' counts bytes of text; give --study, which says how many a token is.")
    sizes = np.geomspace(512, 2**18, _SIZES) if text is None else _spread(text.sizes)
    tokens = flops / (6 * (params + sizes * hidden_size))
    columns = {
        "params_active_non_embedding": np.full(len(sizes), params),
        "hidden_size": np.full(len(sizes), float(hidden_size)),
        "vocab_size": sizes,
        "tokens": tokens,
    }
    if text is not None:
        columns["train_bytes"] = tokens / text.tokens_per_byte[sizes.astype(int) - int(text.sizes[0])]
    columns |= {name: np.full(len(sizes), value) for name, value in (setting or {}).items()}
    values = {}
    for each in fit.variables:
        meaning = parse(each.means or each.name)
        if set(names(meaning)) <= set(columns):
            values[each.name] = np.broadcast_to(evaluate(meaning, columns), sizes.shape)
        else:
            values[each.name] = np.full(len(sizes), math.sqrt(each.low * each.high))
    best = int(np.argmin(fit.predict(**values)))
    drawn = fit.predict_draws(**values).argmin(axis=1) if len(fit.draws) else np.array([best])
    low, high = np.quantile(sizes[drawn], [(1 - level) / 2, (1 + level) / 2])
    outside = fit.extrapolation(**{name: float(value[best]) for name, value in values.items()})
    return LawOptimum(
        law=fit.law,
        vocab_size=round(float(sizes[best])),
        low=round(low),
        high=round(high),
        level=level,
        inside=float(np.mean((drawn > 0) & (drawn < len(sizes) - 1))),
        extrapolation={name: round(decades, 2) for name, decades in outside.items() if decades},
    )


def _spread(sizes: np.ndarray) -> np.ndarray:
    """Some of the studied sizes, evenly in their logarithm, both ends in."""
    return np.unique(np.geomspace(sizes[0], sizes[-1], _SIZES).round())
