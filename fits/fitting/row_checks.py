"""What no fit can be made of, and what to fix where a variable never changes."""

from pathlib import Path
from typing import Any

import numpy as np

from fits.errors import UserError
from fits.laws.derivatives import differentiate
from fits.laws.expression import Node, Number, names, simplified, substitute
from fits.laws.law import Law, Parameter
from fits.tables.binding import Bound


def check_rows(law: Law, bound: Bound, node: Node, free: list[Parameter], in_logs: bool, where: str | Path) -> None:
    """Refuse what no fit can be made of.

    Raises:
        UserError: fewer runs than parameters, a loss without a logarithm, one loss on every row, or a variable that
            never changes though the law needs it to.
    """
    count = len(bound.loss)
    if count < len(free):
        raise UserError(
            f"{where} has {count} runs for the {len(free)} free parameters of '{law.name}'; "
            "add runs, fix or tie parameters, or choose a smaller law."
        )
    if in_logs and (bound.loss <= 0).any():
        row = int(np.flatnonzero(bound.loss <= 0)[0])
        raise UserError(
            f"{where} row {bound.rows[row]}: {bound.loss_from} is {bound.loss[row]:g}, which has no logarithm; "
            "correct the row or choose an objective without log-."
        )
    _refuse_negative(law, bound, where)
    if (bound.loss == bound.loss[0]).all():
        raise UserError(f"{where}: {bound.loss_from} is {bound.loss[0]:g} on every row; there is nothing to fit.")
    for name, column in bound.variables.items():
        if len(column) > 1 and (column == column[0]).all() and _needed(bound, node, free, name):
            fixed = neutral_values(law, bound, node, free).get(name, {})
            fix = " ".join(f"--fix {parameter}={value:g}" for parameter, value in fixed.items())
            raise UserError(
                f"{where}: {name} ({bound.bound_to[name]}) is {column[0]:g} on every row, so '{law.name}' cannot tell "
                f"its parameters apart; add runs at other {name}, or "
                + (f"leave its effect out with {fix}." if fix else "choose a law without it.")
            )


def _refuse_negative(law: Law, bound: Bound, where: str | Path) -> None:
    """Sizes, tokens, FLOPs and ratios of a law of ours are not negative, and only a sparsity may be 0."""
    if law.source == "given":  # a user's own formula may take any number
        return
    for variable in law.variables:
        column = bound.variables[variable.name]
        wrong = column < 0 if variable.name == "S" else column <= 0
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{where} row {bound.rows[row]}: {bound.bound_to[variable.name]} is {column[row]:g}, but "
                f"{variable.name} ({variable.meaning}) must be above 0; correct or drop the row."
            )


def _needed(bound: Bound, node: Node, free: list[Parameter], name: str) -> bool:
    """Whether the free parameters cannot all be told apart with this variable held still, wherever they are."""
    names = [parameter.name for parameter in free]
    values = _anywhere(bound, free)
    moved = dict(values)
    moved[name] = values[name] * np.exp(0.5 * np.random.default_rng(1).standard_normal(len(values[name])))
    return _rank(node, values, names) < _rank(node, moved, names)


def _anywhere(bound: Bound, free: list[Parameter]) -> dict[str, Any]:
    """Some of the rows, and a typical value of every parameter."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(bound.loss), min(len(bound.loss), 200), replace=False)
    values: dict[str, Any] = {each: column[chosen] for each, column in bound.variables.items()}
    for parameter in free:
        low, high = parameter.typical
        values[parameter.name] = np.array([[low + (high - low) * rng.random()]])
    return values


_SIZE_AND_DATA = ("N", "D", "H", "C")


def neutral_values(law: Law, bound: Bound, node: Node, free: list[Parameter]) -> dict[str, dict[str, float]]:
    """For each variable that never changes though the law needs it to: the parameters that make it void, fixed.

    A granularity of 4 on every row takes part as a constant factor: ``gamma = 0`` leaves the law that these runs can
    tell. Nothing is found where no one term can be switched off, or where size or data would vanish.
    """
    found: dict[str, dict[str, float]] = {}
    for name, column in bound.variables.items():
        still = len(column) > 1 and (column == column[0]).all() and name not in _SIZE_AND_DATA
        if still and _needed(bound, node, free, name):
            ways = [way for each in free if (way := _void(law, bound, node, free, name, each)) is not None]
            if ways:
                found[name] = min(ways, key=len)
                node = substitute(node, {each: Number(value) for each, value in found[name].items()})
                free = [each for each in free if each.name not in found[name]]
    return found


def _void(
    law: Law, bound: Bound, node: Node, free: list[Parameter], name: str, parameter: Parameter
) -> dict[str, float] | None:
    """The parameters to fix when this one is 0: itself, and those of the term that then vanishes."""
    if isinstance(parameter.domain, tuple) and not parameter.domain[0] <= 0 <= parameter.domain[1]:
        return None
    rest = simplified(substitute(node, {parameter.name: Number(0.0)}))
    used = set(names(rest))
    gone = [each.name for each in free if each.name not in used and each is not parameter]
    if name in used or any(each not in used for each in law.variable_names if each != name and each in names(node)):
        return None
    left = [each for each in free if each.name in used]
    values, rng = _anywhere(bound, left), np.random.default_rng(1)
    for each in bound.variables:  # what another variable does not tell is no fault of this one
        values[each] = values[each] * np.exp(0.5 * rng.standard_normal(len(values[each])))
    if _rank(rest, values, [each.name for each in left]) < len(left):
        return None
    return {parameter.name: 0.0, **dict.fromkeys(gone, 1.0)}


def _rank(node: Node, values: dict[str, Any], names: list[str]) -> int:
    jet = differentiate(node, values, names)
    shape = np.shape(next(iter(values.values())))
    jacobian = np.stack([np.broadcast_to(jet.first.get(i, 0.0), (1, *shape))[0] for i in range(len(names))], axis=1)
    scale = np.linalg.norm(jacobian, axis=0)
    if not (np.isfinite(scale) & (scale > 0)).all():
        return 0
    return int(np.linalg.matrix_rank(jacobian / scale, tol=1e-9))
