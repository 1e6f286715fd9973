"""Tables of the pages that the case studies write."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(value: float) -> str:
    return f"{value:+.1%}" if np.isfinite(value) else "never"


def decades(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"
