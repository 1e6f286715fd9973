"""The vocabulary size with the least compute for a byte of text, on exact curves.

This is approach 2 of Tao et al. (arXiv 2407.13623) without its fitted tokens-per-character function: the size V that
makes (N + V d) x tokens/byte(V) least, N the parameters outside the vocabulary and d the hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fits.errors import UserError, nearest
from fits.schema import Schema
from vocab_study.study.study import ALL, Study

FLAT = 0.001
"""Sizes whose compute is within this share of the least count as equally good."""
PADDING = 128
"""Rows of a vocabulary matrix on one device come in multiples of this."""
SHOWN_FRIENDLY = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TextCurve:
    """Held-out text of a study, or a mix of its groups, at every vocabulary size."""

    sizes: NDArray[np.int64]
    tokens_per_byte: Floats
    characters_per_byte: float

    def at(self, vocab_size: int) -> float | None:
        """Tokens per byte, or ``None`` for a size that was not studied."""
        index = vocab_size - int(self.sizes[0])
        return float(self.tokens_per_byte[index]) if 0 <= index < len(self.sizes) else None

    def compute(self, params: float, hidden_size: int) -> Floats:
        """(N + V d) x tokens/byte at every size: training FLOPs of a byte over 6."""
        return (params + self.sizes * float(hidden_size)) * self.tokens_per_byte


def text_curve(study: Study, mix: Mapping[str, float] | None = None) -> TextCurve:
    """The curve of a study's held-out text.

    Args:
        study: the study.
        mix: group -> share of the text's bytes; ``None`` takes the text as it is.

    Raises:
        UserError: a group that the study lacks, or shares that are negative or do not sum to 1.
    """
    shares = {ALL: 1.0} if mix is None else dict(mix)
    for group, share in shares.items():
        if group not in study.groups:
            raise UserError(
                f"mix: no group '{group}' in {study.directory}{nearest(group, study.groups)}; "
                f"the groups are {', '.join(study.groups)}."
            )
        if not 0 <= share <= 1:
            raise UserError(f"mix: the share of '{group}' is {share}; it must lie between 0 and 1.")
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"mix: the shares sum to {total:g}; they must sum to 1.")
    tokens, characters = np.zeros(len(study.sizes)), 0.0
    for group, share in shares.items():
        text = study.summary.text["validation"][group]
        tokens += share * study.column("tokens", group) / text.bytes
        characters += share * text.characters / text.bytes
    return TextCurve(study.sizes, tokens, characters)


class Optimum(Schema):
    """The best size and those about as good."""

    vocab_size: int
    lowest_flat: int
    highest_flat: int
    """The ends of the range whose compute is within 0.1 % of the least."""
    at_the_edge: bool
    """The range reaches the largest size studied: the optimum is not identified from above."""
    friendly_sizes: list[int]
    """The roundest sizes of the range that are multiples of 128 x tensor parallel."""


def best_size(text: TextCurve, params: float, hidden_size: int, *, tensor_parallel: int = 1) -> Optimum:
    """The size with the least compute for the text, and the flat range about it.

    Args:
        text: the curve.
        params: N, parameters outside the vocabulary that a token passes.
        hidden_size: d.
        tensor_parallel: ways in which the vocabulary matrices are split.
    """
    compute = text.compute(params, hidden_size)
    flat = text.sizes[compute <= (1 + FLAT) * compute.min()]
    low, high = int(flat[0]), int(flat[-1])
    step = PADDING * tensor_parallel
    friendly = range(-(-low // step) * step, high + 1, step)
    roundest = sorted(friendly, key=lambda size: (-(size & -size), size))[:SHOWN_FRIENDLY]
    return Optimum(
        vocab_size=int(text.sizes[compute.argmin()]),
        lowest_flat=low,
        highest_flat=high,
        at_the_edge=high == text.sizes[-1],
        friendly_sizes=sorted(roundest),
    )
