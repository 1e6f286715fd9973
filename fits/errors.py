"""The one exception for mistakes that a user can fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """One sentence that names the file, key or row, the value, and what to do.

    The command line prints it without a traceback and leaves with exit code 2.
    """


def check_level(level: float) -> None:
    """
    Raises:
        UserError: no level that an interval can have.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must be between 0 and 1, such as 0.95.")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``" (did you mean 'tokens'?)"``, or nothing when no known name is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
