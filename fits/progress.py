"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


def unwatched(done: int, total: int) -> None:
    """For work that nobody watches."""
