"""Exact first and second derivatives of an expression, by forward differentiation over sparse jets.

A jet holds a value and only those derivatives that are not identically zero. Parameters have shape [B, 1], variables
[n] or [B, n]; everything broadcasts, so what does not depend on the rows is computed once per parameter vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fits.errors import UserError, nearest
from fits.laws.expression import Name, Node, Number, Operation

_LN2, _LN10 = np.log(2.0), np.log(10.0)

# function -> (value, first, second derivative) given x and the value
_FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any], Callable[[Any, Any], Any] | None]] = {
    "exp": (np.exp, lambda x, v: v, lambda x, v: v),
    "log": (np.log, lambda x, v: 1 / x, lambda x, v: -1 / (x * x)),
    "log2": (np.log2, lambda x, v: 1 / (x * _LN2), lambda x, v: -1 / (x * x * _LN2)),
    "log10": (np.log10, lambda x, v: 1 / (x * _LN10), lambda x, v: -1 / (x * x * _LN10)),
    "sqrt": (np.sqrt, lambda x, v: 0.5 / v, lambda x, v: -0.25 / (v * x)),
    "abs": (np.abs, lambda x, v: np.sign(x), None),
    "sin": (np.sin, lambda x, v: np.cos(x), lambda x, v: -v),
    "cos": (np.cos, lambda x, v: -np.sin(x), lambda x, v: -v),
    "tan": (np.tan, lambda x, v: 1 + v * v, lambda x, v: 2 * v * (1 + v * v)),
    "arctan": (np.arctan, lambda x, v: 1 / (1 + x * x), lambda x, v: -2 * x / (1 + x * x) ** 2),
}


@dataclass
class Jet:
    """A value with its derivatives: ``first[i]`` and, for ``i <= j``, ``second[i, j]``."""

    value: Any
    first: dict[int, Any] = field(default_factory=dict)
    second: dict[tuple[int, int], Any] = field(default_factory=dict)


def _accumulate(into: dict[Any, Any], key: Any, term: Any) -> None:
    into[key] = into[key] + term if key in into else term


def _pairs(a: Mapping[int, Any], b: Mapping[int, Any], factor: Any, into: dict[tuple[int, int], Any]) -> None:
    """Add ``factor * (a_i b_j + a_j b_i)`` to the second derivatives."""
    for i, a_i in a.items():
        for j, b_j in b.items():
            term = factor * a_i * b_j
            _accumulate(into, (min(i, j), max(i, j)), 2 * term if i == j else term)


def _add(a: Jet, b: Jet, sign: float) -> Jet:
    result = Jet(a.value + sign * b.value, dict(a.first), dict(a.second))
    for i, term in b.first.items():
        _accumulate(result.first, i, sign * term)
    for pair, term in b.second.items():
        _accumulate(result.second, pair, sign * term)
    return result


def _multiply(a: Jet, b: Jet) -> Jet:
    result = Jet(a.value * b.value)
    for i, term in a.first.items():
        _accumulate(result.first, i, term * b.value)
    for i, term in b.first.items():
        _accumulate(result.first, i, a.value * term)
    for pair, term in a.second.items():
        _accumulate(result.second, pair, term * b.value)
    for pair, term in b.second.items():
        _accumulate(result.second, pair, a.value * term)
    _pairs(a.first, b.first, 1.0, result.second)
    return result


def _chain(a: Jet, value: Any, slope: Any, curvature: Any | None) -> Jet:
    """A function of one jet, from its value and derivatives there; ``None`` is a curvature of zero."""
    result = Jet(value, {i: slope * term for i, term in a.first.items()})
    for pair, term in a.second.items():
        result.second[pair] = slope * term
    if curvature is None:
        return result
    indices = sorted(a.first)
    for position, i in enumerate(indices):
        scaled = curvature * a.first[i]
        for j in indices[position:]:
            _accumulate(result.second, (i, j), scaled * a.first[j])
    return result


def _power(base: Jet, exponent: Jet) -> Jet:
    if not exponent.first:
        x, c = base.value, exponent.value
        if not base.first:
            return Jet(np.power(np.asarray(x, dtype=float), c))
        if np.ndim(c) == 0 and c in (1.0, 2.0):  # exact at zero and for negative bases
            return base if c == 1.0 else _chain(base, x * x, 2 * x, 2.0)
        return _chain(base, np.power(x, c), c * np.power(x, c - 1), c * (c - 1) * np.power(x, c - 2))
    if not base.first:
        logarithm = np.log(np.asarray(base.value, dtype=float))
        value = np.exp(exponent.value * logarithm)
        return _chain(exponent, value, value * logarithm, value * logarithm * logarithm)
    logarithm = _chain(base, np.log(base.value), 1 / base.value, -1 / base.value**2)
    product = _multiply(exponent, logarithm)
    value = np.exp(product.value)
    return _chain(product, value, value, value)


def differentiate(node: Node, values: Mapping[str, Any], parameters: Sequence[str]) -> Jet:
    """Value, gradient and Hessian of an expression.

    Args:
        node: the expression.
        values: every name's value; a parameter's has shape [B, 1], a variable's [n].
        parameters: the names to differentiate by; index ``i`` in the jet is ``parameters[i]``.

    Raises:
        UserError: a name has no value.
    """
    index = {name: i for i, name in enumerate(parameters)}
    with np.errstate(all="ignore"):
        return _differentiate(node, values, index)


def _differentiate(node: Node, values: Mapping[str, Any], index: Mapping[str, int]) -> Jet:
    if isinstance(node, Number):
        return Jet(np.float64(node.value))
    if isinstance(node, Name):
        if node.name not in values:
            raise UserError(f"'{node.name}' is not known here{nearest(node.name, values)}; known: {', '.join(values)}.")
        value = values[node.name]
        return Jet(value, {index[node.name]: np.ones_like(value)} if node.name in index else {})
    if not isinstance(node, Operation):
        raise UserError("Text has no derivative; use numbers in a law's formula.")
    operands = [_differentiate(operand, values, index) for operand in node.operands]
    match node.operator:
        case "+":
            return _add(operands[0], operands[1], 1.0)
        case "-":
            return _add(operands[0], operands[1], -1.0)
        case "*":
            return _multiply(operands[0], operands[1])
        case "/":
            divisor = operands[1].value
            inverse = _chain(operands[1], 1 / divisor, -1 / divisor**2, 2 / divisor**3)
            return _multiply(operands[0], inverse)
        case "**":
            return _power(operands[0], operands[1])
        case "neg":
            return _chain(operands[0], -operands[0].value, -1.0, None)
        case name if name in _FUNCTIONS:
            function, slope, curvature = _FUNCTIONS[name]
            x = operands[0].value
            value = function(x)
            return _chain(operands[0], value, slope(x, value), curvature(x, value) if curvature else None)
    raise UserError(f"A law's formula cannot hold '{node.operator}'; it must be arithmetic.")
