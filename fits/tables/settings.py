"""What the runs of a table have in common besides a law's variables: vocabulary, sequence length, routing.

A law fitted at one vocabulary holds at that vocabulary; so what is the same on every row goes into the law's record,
under our names, whatever the columns are called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fits.tables.files import row_numbers
from fits.tables.meaning import recognised

SETTINGS = {
    "vocab_size": "the vocabulary",
    "sequence_length": "the sequence length",
    "num_experts": "the number of experts",
    "experts_per_token": "the experts a token",
    "num_shared_experts": "the number of shared experts",
    "granularity": "the granularity",
    "num_dense_layers": "the number of dense layers",
}
"""Our columns that a law's runs may share, and what each is called in a sentence."""
_LEAST = {"vocab_size": 256, "sequence_length": 16, "granularity": 1e-3}
"""Smaller numbers are of something else."""
_ODD = 0.2
"""A share of the rows up to which another value looks like a slip."""


@dataclass(frozen=True)
class Settings:
    """``constants`` are the same on every row; ``commonest`` is what most rows have of what varies."""

    constants: dict[str, float] = field(default_factory=dict)
    commonest: dict[str, float] = field(default_factory=dict)
    bytes_per_token: dict[int, float] = field(default_factory=dict)
    """UTF-8 bytes of training text a token, by vocabulary size."""
    notes: dict[str, str] = field(default_factory=dict)
    """Column -> what is odd about it."""


def settings_of(frame: pd.DataFrame, known: Mapping[str, np.ndarray]) -> Settings:
    """Find what the runs share.

    Args:
        frame: the rows that are fitted.
        known: our column -> its values, for what is known already because a variable means it.
    """
    found = Settings()
    columns: dict[str, np.ndarray] = {}
    for name in (*SETTINGS, "hidden_size", "expert_ffn_size", "tokens", "train_bytes"):
        values = known[name] if name in known else _column(frame, name, found.notes)
        if values is not None:
            columns[name] = values
    if "granularity" not in columns and {"hidden_size", "expert_ffn_size"} <= set(columns):
        with np.errstate(all="ignore"):
            granularity = 2 * columns["hidden_size"] / columns["expert_ffn_size"]
        if np.isfinite(granularity).all():
            columns["granularity"] = granularity
    for name, what in SETTINGS.items():
        if name in columns:
            _sort_in(name, what, columns[name], row_numbers(frame), found)
    if {"tokens", "train_bytes", "vocab_size"} <= set(columns):
        ratio = columns["train_bytes"] / columns["tokens"]
        for size in np.unique(columns["vocab_size"]):
            found.bytes_per_token[int(size)] = float(np.median(ratio[columns["vocab_size"] == size]))
    return found


def _sort_in(name: str, what: str, values: np.ndarray, rows: np.ndarray, found: Settings) -> None:
    different, counts = np.unique(values, return_counts=True)
    most = float(different[counts.argmax()])
    near = np.abs(values - most) <= 0.02 * abs(most) if name == "granularity" else values == most  # widths are rounded
    if near.all():
        found.constants[name] = most
        return
    found.commonest[name] = most
    odd = np.flatnonzero(~near)
    if len(odd) <= _ODD * len(values):
        others = ", ".join(f"{values[row]:g} in row {rows[row]}" for row in odd[:3]) + (", ..." if len(odd) > 3 else "")
        found.notes[name] = (
            f"{what} ({name}) is {most:g}, but {others}, and the law does not see it; leave out what does not belong "
            "with --where."
        )


def _plausible(name: str, values: np.ndarray) -> bool:
    """Whether the numbers of a foreign column can be what its name sounds like."""
    numbers = values[np.isfinite(values)]
    whole = name == "granularity" or bool((numbers == np.round(numbers)).all())
    return whole and bool((numbers >= _LEAST.get(name, 0)).all())


def _column(frame: pd.DataFrame, name: str, notes: dict[str, str]) -> np.ndarray | None:
    """One of our columns, or theirs of the same meaning; None where the table has none, or not one value a row."""
    theirs = [column for column in map(str, frame.columns) if recognised(column) == [name]]
    theirs.sort(key=lambda column: column != name)  # ours comes first, and stands
    rows, first = row_numbers(frame), None
    for column in theirs:
        cells: Any = frame[column]
        if pd.api.types.is_datetime64_any_dtype(cells.dtype) or pd.api.types.is_bool_dtype(cells.dtype):
            continue
        values = pd.Series(pd.to_numeric(cells, errors="coerce")).to_numpy(dtype=float, na_value=np.nan)
        if column != name and name in SETTINGS and not _plausible(name, values):
            continue
        bad = ~np.isfinite(values)
        if bad.any():
            text = cells.notna().to_numpy() & bad
            if column != name and first is not None:
                continue
            if name in SETTINGS and text.any():
                row = int(np.flatnonzero(text)[0])
                notes[name] = (
                    f"column '{column}' holds {str(cells.iloc[row])!r} in row {rows[row]}, which is no number, so "
                    f"{SETTINGS[name]} of the runs is not kept with the law."
                )
            return None
        if first is not None and (values != first).any():
            row = int(np.flatnonzero(values != first)[0])
            if name in SETTINGS:
                notes[name] = (
                    f"columns '{theirs[0]}' and '{column}' both give {SETTINGS[name]} and differ in row {rows[row]} "
                    f"({first[row]:g} and {values[row]:g}), so "
                    + (f"'{name}' is taken." if theirs[0] == name else "it is not kept with the law.")
                )
            return first if theirs[0] == name else None
        first = values if first is None else first
    return first
