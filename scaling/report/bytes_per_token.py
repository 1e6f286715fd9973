"""UTF-8 bytes of training text that one token carries, at any vocabulary size."""

from collections.abc import Callable
from functools import cache

import numpy as np

from fits.errors import UserError
from fits.tables.runs import column_values
from scaling.report.collect import Material


def bytes_per_token(material: Material) -> Callable[[int], float]:
    """Vocabulary size -> bytes a token: as counted in the runs, between them as the vocabulary study says.

    Raises:
        UserError: there is neither a study nor ``train_bytes`` in the runs.
    """
    study, runs = material.study, material.runs
    if runs is None or not {"train_bytes", "vocab_size", "tokens"} <= set(runs.columns):
        if study is None:
            raise UserError(f"{material.directory}: neither a vocabulary study nor train_bytes in runs.csv; make one.")
        return lambda size: study.bytes_per_token(size, split="train")
    each, vocabularies = column_values(runs, "train_bytes / tokens"), column_values(runs, "vocab_size")
    finite = np.isfinite(each)
    sizes = np.unique(vocabularies[finite])
    counted = np.array([each[finite & (vocabularies == size)].mean() for size in sizes])
    if study is None or sizes.max() > study.summary.largest_size:
        return lambda size: float(np.interp(np.log(size), np.log(sizes), counted))
    # The study has the shape of the curve; the runs say how text was counted in them (end-of-text, truncation).
    correction = counted / [study.bytes_per_token(int(size), split="train") for size in sizes]

    @cache
    def corrected(size: int) -> float:
        factor = np.interp(np.log(size), np.log(sizes), correction)
        return float(factor) * study.bytes_per_token(size, split="train")

    return corrected
