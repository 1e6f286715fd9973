"""Tables of the pages that benchmarks write, and what stands in their cells."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "never"
