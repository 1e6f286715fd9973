"""What a fitted law advises or predicts at a point, each answer with its interval and its distance from the runs."""

from collections.abc import Mapping
from typing import Any

from fits.decisions.allocation import optimal_allocation, surface
from fits.errors import UserError
from fits.fitting.result import Fit

_BYTES = "bytes_per_token"


def decide(fit: Fit, at: Mapping[str, float]) -> dict[str, Any]:
    """The compute-optimal size, tokens and loss at C FLOPs (C = 6 N D), or the prediction at given variables.

    ``C`` asks for the allocation unless it is itself a variable of the law; remaining variables stand beside it. A law
    in bytes (H) needs ``bytes_per_token``.

    Raises:
        UserError: a value is missing, unknown or not above zero.
    """
    law = fit.as_law
    variables: dict[str, Any] = dict(at)
    for name, value in at.items():
        if not value > 0:
            raise UserError(f"{name} is {value:g}; it must be above 0.")
    if "C" not in at or "C" in law.variable_names:
        variables = {name: value / fit.unit_of(name) for name, value in at.items()}  # told in parameters and tokens
        value = fit.predict(**variables)
        low, high = fit.band(**variables) if len(fit.draws) > 1 else (value, value)
        outside = fit.extrapolation(**variables)
        return {law.response: {"value": value, "low": low, "high": high}, "extrapolation_decades": outside}
    for each in fit.variables:
        if each.name in ("N", "D", "H") and each.means is None:
            raise UserError(
                f"C = 6 N D cannot be asked while what {each.name} (bound to {each.bound_to}) counts is not known; say "
                f"it with --means {each.name}=COLUMN, or COLUMN/1e9 for billions."
            )
    settings: dict[str, Any] = {"others": {name: value for name, value in at.items() if name not in ("C", _BYTES)}}
    if "H" in law.variable_names:
        if _BYTES not in at:
            raise UserError(f"Law '{law.name}' counts data in bytes; give {_BYTES} beside C.")
        settings |= {"data": "H", "data_per_token": at[_BYTES]}
    where = surface(fit, **settings)
    best = optimal_allocation(where, at["C"])
    asked = {"N": best.size.value, where.data: best.tokens.value * where.data_per_token}
    outside = fit.extrapolation(**asked)
    if "train_flops" in fit.ranges:
        outside |= fit.extrapolation(train_flops=at["C"])
    unit = fit.unit_of("N")  # N and D are told in parameters and tokens, whatever the law counts them in
    return {
        "N": best.size.times(unit).as_dict(),
        "D": best.tokens.as_dict(),
        "D/N": best.tokens_per_parameter.times(1 / unit).as_dict(),
        law.response: best.loss.as_dict(),
        "size_exponent": best.size_exponent.as_dict(),
        "interior": best.interior,
        "accounting": "C = 6 N D",
        "extrapolation_decades": outside,
    }
