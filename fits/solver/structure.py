"""Finds, in a law's formula, a sum of terms whose logarithms are linear in the parameters.

``E + A/N**alpha`` is exp(log E) + exp(log A - alpha log N). Most scaling laws have this structure, and it makes
their derivatives products of the terms with fixed columns.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from fits.laws.expression import Name, Node, Number, Operation, names


@dataclass
class PowerTerm:
    """sign * exp(sum of logs of the constant factors + sum over parameters of theta_j * feature_j).

    theta is the logarithm of a parameter that multiplies and the parameter itself where it stands in an exponent.
    """

    sign: float
    constants: list[tuple[Node, Node]] = field(default_factory=list)
    """Factors free of parameters, each with the power it is raised to."""
    features: dict[str, Node] = field(default_factory=dict)


def power_terms(node: Node, positive: Set[str], free: Set[str]) -> tuple[list[PowerTerm], set[str]] | None:
    """The terms of a formula, and which parameters multiply; ``None`` when the formula has another structure.

    Args:
        node: the formula.
        positive: free parameters whose domain is positive.
        free: all free parameters.
    """
    terms = []
    multiplying: set[str] = set()
    exponents: set[str] = set()
    for sign, factors in _expand(node, free):
        term = PowerTerm(sign)
        for factor, power in factors:
            if not _add_factor(term, factor, power, positive, free, multiplying, exponents):
                return None
        terms.append(term)
    return None if multiplying & exponents else (terms, multiplying)


_ONE = Number(1.0)


def _expand(node: Node, free: Set[str]) -> list[tuple[float, list[tuple[Node, Node]]]]:
    """The formula as a sum of products of (factor, power)."""
    if isinstance(node, Operation) and not free.isdisjoint(names(node)):
        operands = node.operands
        if node.operator == "neg":
            return [(-sign, factors) for sign, factors in _expand(operands[0], free)]
        if node.operator in ("+", "-"):
            flip = 1.0 if node.operator == "+" else -1.0
            right = [(flip * sign, factors) for sign, factors in _expand(operands[1], free)]
            return _expand(operands[0], free) + right
        if node.operator == "*":
            return [
                (s * t, left + right)
                for s, left in _expand(operands[0], free)
                for t, right in _expand(operands[1], free)
            ]
        if node.operator == "/":
            divisor = (operands[1], Number(-1.0))
            return [(sign, [*factors, divisor]) for sign, factors in _expand(operands[0], free)]
    return [(1.0, [(node, _ONE)])]


def _add_factor(
    term: PowerTerm,
    node: Node,
    power: Node,
    positive: Set[str],
    free: Set[str],
    multiplying: set[str],
    exponents: set[str],
) -> bool:
    """Multiply the term by node ** power, where power is free of parameters; false when that is not possible."""
    if free.isdisjoint(names(node)):
        term.constants.append((node, power))
        return True
    if isinstance(node, Name):
        if node.name not in positive:
            return False
        multiplying.add(node.name)
        _add_feature(term, node.name, power)
        return True
    assert isinstance(node, Operation)
    rest = (positive, free, multiplying, exponents)
    if node.operator in ("*", "/"):
        second = power if node.operator == "*" else Operation("neg", (power,))
        return _add_factor(term, node.operands[0], power, *rest) and _add_factor(term, node.operands[1], second, *rest)
    if node.operator == "exp":
        base, exponent = None, node.operands[0]
    elif node.operator == "**":
        base, exponent = node.operands
    else:
        return False
    if base is not None and free.isdisjoint(names(exponent)):
        return _add_factor(term, base, _product(power, exponent), *rest)
    if base is not None and not free.isdisjoint(names(base)):
        return False
    linear = _affine(exponent, free)
    if linear is None:
        return False
    if None in linear:
        constant = _product(power, linear[None])
        term.constants.append((base, constant) if base is not None else (Operation("exp", (constant,)), _ONE))
    for name, coefficient in linear.items():
        if name is not None:
            exponents.add(name)
            feature = _product(power, coefficient)
            _add_feature(term, name, feature if base is None else _product(feature, Operation("log", (base,))))
    return True


def _product(a: Node, b: Node) -> Node:
    return b if a == _ONE else a if b == _ONE else Operation("*", (a, b))


def _add_feature(term: PowerTerm, name: str, feature: Node) -> None:
    known = term.features.get(name)
    term.features[name] = feature if known is None else Operation("+", (known, feature))


def _affine(node: Node, free: Set[str]) -> Mapping[str | None, Node] | None:
    """The expression as constant (key ``None``) plus coefficients of parameters; ``None`` when it is not affine."""
    if free.isdisjoint(names(node)):
        return {None: node}
    if isinstance(node, Name):
        return {node.name: _ONE}
    assert isinstance(node, Operation)
    if node.operator == "neg":
        inner = _affine(node.operands[0], free)
        return inner and {name: Operation("neg", (each,)) for name, each in inner.items()}
    if node.operator in ("+", "-"):
        left, right = (_affine(operand, free) for operand in node.operands)
        if left is None or right is None:
            return None
        total = dict(left)
        for name, each in right.items():
            signed = each if node.operator == "+" else Operation("neg", (each,))
            total[name] = Operation("+", (total[name], signed)) if name in total else signed
        return total
    if node.operator in ("*", "/"):
        left, right = node.operands
        if node.operator == "*" and free.isdisjoint(names(left)):
            left, right = right, left
        if not free.isdisjoint(names(right)):
            return None
        inner = _affine(left, free)
        return inner and {name: Operation(node.operator, (each, right)) for name, each in inner.items()}
    return None
