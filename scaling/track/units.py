"""The unit of a log's loss, and the loss in the plan's: two units are never compared.

A unit is taken from the column's name where that says one; else it is told from the values, the promised ones and the
plan's bytes a token.
"""

import math

import numpy as np

from fits.errors import UserError
from fits.tables.loss_units import (
    BITS_PER_BYTE,
    BITS_PER_CHARACTER,
    BITS_PER_TOKEN,
    NATS,
    NATS_PER_BYTE,
    PERPLEXITY,
)
from scaling.plan import TrainingPlan

_NEAR = math.log(1.2)
"""How far a run may be off its promise and still tell its unit."""
_ALIKE = 0.15
_LOWEST = 0.6
"""Of the promised loss: no run is below that."""
_BYTES_OF_A_TOKEN = 1.7, 8.0
"""Where the plan does not say them."""


def unit_of_plan(plan: TrainingPlan) -> str:
    return NATS if plan.prediction.quantity == "loss" else BITS_PER_BYTE


def preference(unit: str | None, plan: TrainingPlan) -> int:
    """Of a loss in this unit, as its name says: 0 for the plan's, 1 for one that can be converted, 2 for the rest."""
    if unit == unit_of_plan(plan) or (unit is None and unit_of_plan(plan) == NATS):
        return 0
    return 2 if unit in (PERPLEXITY, BITS_PER_CHARACTER) else 1


def in_plan_unit(
    plan: TrainingPlan, loss: np.ndarray, predicted: np.ndarray, named: str | None, source: str
) -> tuple[np.ndarray, list[str]]:
    """A log's losses [n] in the plan's unit, and a note where they were converted.

    Args:
        plan: gives its unit and the bytes of a token.
        loss: as logged.
        promised: at the same tokens [n], in the plan's unit.
        named: unit that the column's name says, if any.
        source: file and column, for messages.

    Raises:
        UserError: the unit cannot be told or converted, or no loss can be so far below the promise.
    """
    own, factors = unit_of_plan(plan), _factors(plan)
    # A low quartile: what diverged late says nothing of the unit.
    ratio = float(np.quantile(loss / predicted, 0.25))
    unit = named or _told_by_values(plan, loss, predicted, ratio, source)
    if unit not in factors:
        raise _lacking(plan, unit, source)
    if ratio * factors[unit] < _LOWEST:
        raise UserError(
            f"{source} is {ratio * factors[unit]:.3g} times the promised loss when read as {unit}, and no run is that "
            f"far below; give the column of the cross-entropy with --loss-column, in {own}."
        )
    if unit == own:
        return loss, []
    size = f" with the plan's {_bytes_per_token(plan):.4g} bytes a token" if ("byte" in unit) != ("byte" in own) else ""
    by = "by its name" if named else "by its values"
    return loss * factors[unit], [f"the loss is in {unit} {by} and was converted to {own}{size}"]


def _bytes_per_token(plan: TrainingPlan) -> float | None:
    return plan.data.bytes_per_token if plan.data else None


def _factors(plan: TrainingPlan) -> dict[str, float]:
    """What one of each unit is in the plan's; units of bytes and of tokens together only where their ratio is known."""
    of_tokens, of_bytes = {NATS: 1.0, BITS_PER_TOKEN: math.log(2)}, {NATS_PER_BYTE: 1.0, BITS_PER_BYTE: math.log(2)}
    own, size = unit_of_plan(plan), _bytes_per_token(plan)
    known = of_tokens if own in of_tokens else of_bytes
    if size is not None:
        known = of_tokens | {unit: nats * size for unit, nats in of_bytes.items()}
    return {unit: nats / known[own] for unit, nats in known.items()}


def _told_by_values(plan: TrainingPlan, loss: np.ndarray, predicted: np.ndarray, ratio: float, source: str) -> str:
    own, factors = unit_of_plan(plan), _factors(plan)
    other = BITS_PER_BYTE if own == NATS else NATS
    off = {unit: abs(math.log(max(ratio, 1e-9) * factor)) for unit, factor in factors.items()}
    near = [unit for unit in (own, other) if off.get(unit, math.inf) < _NEAR]
    # What is only called a loss is nats a token by custom, so a plan in nats needs no more than values that agree.
    if len(near) == 1 or (near and own == NATS):
        return near[0]
    looks = [unit for unit in off if off[unit] < _ALIKE and not near]
    if NATS in factors and _is_exponent(loss, predicted / factors[NATS]):
        looks = [PERPLEXITY]
    if looks:
        raise UserError(
            f"{source} is {ratio:.3g} times the promised loss: its values look like {looks[0]}, and the plan is in "
            f"{own}; log {own}, or put the unit into the column's name if it is another, as in '{_example(own)}'."
        )
    if other not in factors:
        if _may_be_other(ratio, own):
            raise UserError(
                f"{source} is {ratio:.3g} times the promised loss: its values look like {other}, and the plan is in "
                f"{own} and says no data.bytes_per_token to convert them; add that to the plan, or log {own}."
            )
        return own
    nearest, second = sorted((own, other), key=lambda unit: off[unit])
    if near or off[nearest] > off[second] / 2:
        raise UserError(
            f"{source} is {ratio:.3g} times the promised loss, which may be {own} or {other}; put the unit into the "
            f"column's name, as in '{_example(own)}' or '{_example(other)}'."
        )
    return nearest


def _example(unit: str) -> str:
    return "loss_" + unit.replace(" ", "_")


def _is_exponent(loss: np.ndarray, nats: np.ndarray) -> bool:
    """Whether these are perplexities of what was promised."""
    return abs(float(np.median(np.log(np.maximum(loss, 1e-9)) / nats)) - 1) < 0.1


def _may_be_other(ratio: float, own: str) -> bool:
    """Whether a ratio is one that nats a token and bits a byte have for some tokenizer."""
    low, high = (math.log(2) * size for size in _BYTES_OF_A_TOKEN)
    return low <= (1 / ratio if own == NATS else ratio) <= high


def _lacking(plan: TrainingPlan, unit: str, source: str) -> UserError:
    own = unit_of_plan(plan)
    if unit in (PERPLEXITY, BITS_PER_CHARACTER):
        return UserError(f"{source} is {unit} by its name, and the plan is in {own}; give a column of {own}.")
    return UserError(
        f"{source} is in {unit} by its name, and plan '{plan.name}' is in {own} and says no data.bytes_per_token to "
        f"convert it; add that to the plan, or log {own}."
    )
