"""Named values of a stack's file, with errors that name the file, the name and the value."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fits.errors import UserError


class Values:
    """Reads numbers out of ``values``; ``word`` is what the file calls its names (flag, constant, variable)."""

    def __init__(self, values: Mapping[str, Any], path: str | Path, word: str) -> None:
        self.values, self.path, self.word = values, path, word

    def get(self, name: str, default: Any = None) -> Any:
        """The value; absent, null and false are the default."""
        value = self.values.get(name)
        return default if value is None or value is False else value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            UserError: it is missing without a default, or no number.
        """
        value = self.get(name, default)
        if value is None:
            raise UserError(f"{self.path}: {self.word} '{name}' is missing; add it.")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{self.path}: {self.word} '{name}' is {value!r}: must be a number.")
        return number

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number of at least ``least``.

        Raises:
            UserError: it is missing without a default, or no such number.
        """
        value = self.number(name, default)
        if value != int(value) or value < least:
            raise UserError(
                f"{self.path}: {self.word} '{name}' is {value:g}: must be a whole number of at least {least}."
            )
        return int(value)
