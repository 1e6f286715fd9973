"""The cells of a log's column as numbers, and what was none: nothing is dropped or read otherwise unsaid."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fits.errors import UserError

_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:([,_ '\u2019\u00a0\u202f])[0-9]{3})(?:\1[0-9]{3})*(?:\.[0-9]*)?")
_COMMA = re.compile(r"[+-]?[0-9][0-9.,_']*,[0-9]+(?:[.,][0-9]+)*(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Cells:
    """A column of n cells; the masks are [n]."""

    name: str
    values: np.ndarray
    """[n]; NaN where a cell is blank, text or nan."""
    texts: tuple[str, ...]
    """As written."""
    blank: np.ndarray
    """Cells that say nothing, as trackers leave them in rows of other metrics; a written nan says something."""
    wrong: np.ndarray
    """Cells that hold something that is no number, nor nan."""
    grouped: np.ndarray
    """Numbers written in groups of three digits: ``1,000`` or ``1_000``."""

    @property
    def nan(self) -> np.ndarray:
        """A written nan."""
        return np.isnan(self.values) & ~self.blank & ~self.wrong

    @property
    def finite(self) -> np.ndarray:
        return np.isfinite(self.values)

    def first(self, mask: np.ndarray) -> str:
        """The first of these cells, for a message."""
        row = int(np.flatnonzero(mask)[0])
        return f"{self.texts[row]!r} in row {row + 1}"

    def refuse_decimal_commas(self, path: str | Path, *, grouped: bool) -> None:
        """
        Args:
            path: for the message.
            grouped: whether ``1,000`` is read as a thousand where every comma of the column may group digits.

        Raises:
            UserError: a comma that may be a decimal one: 2,345 is no 2345.
        """
        commas = np.array(["," in text and _COMMA.fullmatch(text) is not None for text in self.texts], bool)
        doubtful = commas & ~self.grouped if grouped else commas | self.grouped
        if doubtful.any():
            raise UserError(
                f"{path}: column '{self.name}' holds {self.first(doubtful)}, whose separator may be a decimal one; "
                "write the column with decimal points and without separators."
            )


def cells_of(name: str, column: Iterable[Any]) -> Cells:
    """The cells of a column, each told apart: a number, grouped digits, nan, blank, or text."""
    cells = list(column)
    texts = tuple("" if cell is None else str(cell).strip().strip("\"'").strip() for cell in cells)
    read = [_read(cell, text) for cell, text in zip(cells, texts, strict=True)]
    values = np.array([value for value, _ in read], float)
    kinds = np.array([kind for _, kind in read], dtype=object)
    return Cells(name, values, texts, kinds == "blank", kinds == "text", kinds == "grouped")


def _read(cell: Any, text: str) -> tuple[float, str]:
    if not text:
        return math.nan, "blank"
    if isinstance(cell, bool):  # a truth is no count and no loss
        return math.nan, "text"
    try:
        if "_" not in text:  # Python would read 1_0 as 10
            return float(text), "number"
    except ValueError:
        pass
    if _GROUPED.fullmatch(text):
        return float(re.sub(r"[^0-9.+-]", "", text)), "grouped"
    return math.nan, "text"
