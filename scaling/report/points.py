"""The runs as points to draw: plain numbers, one object a run."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fits.tables.runs import column_values


@dataclass(frozen=True)
class RunPoint:
    """A run that is done; what the table lacks is NaN."""

    run_id: str
    purpose: str
    train_flops: float
    tokens: float
    params: float
    """Active parameters without embeddings."""
    measured: float
    """What the law was fitted to: the loss, or bits per byte."""


def run_points(table: pd.DataFrame, response: str) -> list[RunPoint]:
    """One point a row.

    Args:
        response: the column, or the expression over columns, that was fitted.

    Raises:
        UserError: the table cannot give ``response``.
    """
    names = _texts(table, "run_id") or [f"row {row + 1}" for row in range(len(table))]
    purposes = _texts(table, "purpose") or ["run"] * len(table)
    numbers = [numbers_of(table, name) for name in ("train_flops", "tokens", "params_active_non_embedding")]
    measured = column_values(table, response)
    return [
        RunPoint(*row) for row in zip(names, purposes, *(each.tolist() for each in (*numbers, measured)), strict=True)
    ]


def numbers_of(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats, NaN where the table lacks it."""
    return column_values(table, name) if name in table.columns else np.full(len(table), np.nan)


def _texts(table: pd.DataFrame, name: str) -> list[str]:
    return [str(value) for value in table[name]] if name in table.columns else []
