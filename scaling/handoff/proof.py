"""What a stack's own code says of a run: parameters and learning rates, to be compared with ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """Counted and asked in the stack's own classes."""

    parameters: int
    rates: dict[int, float]
    """Step (from 0) -> the learning rate that the stack's scheduler gives it."""
    active_parameters: int | None = None
    """Where the stack counts them: those that one token passes through."""
