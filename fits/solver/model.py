"""A law bound to data: predictions, and their derivatives contracted with weights, for a batch of parameter vectors.

Two kinds share one interface: ``PowerSum`` for formulas that are sums of power-law terms, ``General`` for the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fits.laws.derivatives import Jet, differentiate
from fits.laws.expression import Name, Node, Operation, evaluate, names
from fits.solver.structure import power_terms


class Model(Protocol):
    """Predictions of n rows from natural parameters [B, p]; the state links a forward pass to its derivatives."""

    logarithmic: np.ndarray
    """[p] of bool: the natural parameter is the logarithm of the law's."""

    def forward(self, natural: np.ndarray) -> tuple[np.ndarray, Any]:
        """Predictions [B, n] and the state."""
        ...

    def contract(self, state: Any, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [B, p] and Hessian [B, p, p] of an objective with these derivatives by each prediction.

        gradient_i = sum_n first f_i;  Hessian_ij = sum_n (second f_i f_j + first f_ij)
        """
        ...

    def jacobian(self, state: Any) -> np.ndarray:
        """Derivatives of the predictions by the natural parameters, [B, n, p]."""
        ...

    def rows(self, chosen: slice | np.ndarray) -> "Model":
        """The same law on some of the rows."""
        ...


@dataclass(frozen=True)
class _Term:
    sign: float
    offset: np.ndarray  # [n], or [1] when the term is the same on every row
    columns: np.ndarray  # [n, m] or [1, m]
    parameters: np.ndarray  # [m]

    @property
    def constant(self) -> bool:
        return len(self.columns) == 1

    def rows(self, chosen: slice | np.ndarray) -> "_Term":
        if self.constant:
            return self
        return _Term(self.sign, self.offset[chosen], self.columns[chosen], self.parameters)


class PowerSum:
    """sum_k sign_k exp(offset_k + columns_k theta): derivatives are the terms times fixed columns."""

    def __init__(self, terms: Sequence[_Term], logarithmic: np.ndarray, length: int) -> None:
        self.terms = list(terms)
        self.logarithmic = logarithmic
        self.length = length
        self._products: dict[tuple[int, int], np.ndarray] = {}

    def forward(self, natural: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        parts = []
        total: Any = 0.0
        for term in self.terms:
            part = natural[:, term.parameters] @ term.columns.T
            part += term.offset
            np.exp(part, out=part)
            if term.sign != 1.0:
                part *= term.sign
            parts.append(part)
            total = total + part
        if total.shape[1] != self.length:
            total = np.repeat(total, self.length, axis=1)
        return total, parts

    def contract(self, state: list[np.ndarray], first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch, size = len(first), len(self.logarithmic)
        gradient = np.zeros((batch, size))
        hessian = np.zeros((batch, size, size))
        bent: list[np.ndarray | None] = []  # second * part, for the terms that vary
        sum_first = first.sum(axis=1, keepdims=True)
        sum_second = second.sum(axis=1, keepdims=True)
        for k, (term, part) in enumerate(zip(self.terms, state, strict=True)):
            if term.constant:
                pulled, slope = None, sum_first * part * term.columns
                curve = (sum_second * part + sum_first) * part * self._product(k, k)
                bent.append(None)
            else:
                pulled = first * part
                slope = pulled @ term.columns
                bent.append(second * part)
                pulled += bent[k] * part
                curve = pulled @ self._product(k, k)
            gradient[:, term.parameters] += slope
            self._scatter(hessian, k, k, curve)
            for other in range(k):
                left, right = bent[other], bent[k]
                if left is not None and right is not None:
                    curve = (left * part) @ self._product(other, k)
                elif left is not None:
                    curve = part * (left @ self._product(other, k))
                elif right is not None:
                    curve = state[other] * (right @ self._product(other, k))
                else:
                    curve = sum_second * state[other] * part * self._product(other, k)
                self._scatter(hessian, other, k, curve)
        return gradient, hessian

    def _product(self, k: int, other: int) -> np.ndarray:
        """Products of every column of one term with every column of another, [n, m_k * m_other]."""
        if (k, other) not in self._products:
            left, right = self.terms[k].columns, self.terms[other].columns
            self._products[k, other] = (left[:, :, None] * right[:, None, :]).reshape(max(len(left), len(right)), -1)
        return self._products[k, other]

    def _scatter(self, hessian: np.ndarray, k: int, other: int, curve: np.ndarray) -> None:
        rows, columns = self.terms[k].parameters, self.terms[other].parameters
        block = curve.reshape(len(curve), len(rows), len(columns))
        hessian[:, rows[:, None], columns[None, :]] += block
        if k != other:
            hessian[:, columns[:, None], rows[None, :]] += block.transpose(0, 2, 1)

    def jacobian(self, state: list[np.ndarray]) -> np.ndarray:
        result = np.zeros((len(state[0]), self.length, len(self.logarithmic)))
        for term, part in zip(self.terms, state, strict=True):
            result[:, :, term.parameters] += part[:, :, None] * term.columns
        return result

    def rows(self, chosen: slice | np.ndarray) -> "PowerSum":
        length = len(np.arange(self.length)[chosen])
        return PowerSum([term.rows(chosen) for term in self.terms], self.logarithmic, length)


class General:
    """Any formula, by exact forward differentiation."""

    def __init__(self, node: Node, data: Mapping[str, np.ndarray], parameters: Sequence[str], length: int) -> None:
        self.node = node
        self.data = data
        self.parameters = list(parameters)
        self.logarithmic = np.zeros(len(parameters), dtype=bool)
        self.length = length

    def forward(self, natural: np.ndarray) -> tuple[np.ndarray, Jet]:
        values: dict[str, Any] = dict(self.data)
        for index, name in enumerate(self.parameters):
            values[name] = natural[:, index : index + 1]
        jet = differentiate(self.node, values, self.parameters)
        return np.broadcast_to(jet.value, (len(natural), self.length)), jet

    def contract(self, state: Jet, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        jacobian = self.jacobian(state, len(first))
        gradient = np.einsum("bn,bnp->bp", first, jacobian)
        hessian = np.matmul(jacobian.transpose(0, 2, 1), second[:, :, None] * jacobian)
        for (i, j), term in state.second.items():
            part = np.einsum("bn,bn->b", first, np.broadcast_to(term, first.shape))
            hessian[:, i, j] += part
            if i != j:
                hessian[:, j, i] += part
        return gradient, hessian

    def jacobian(self, state: Jet, batch: int = 1) -> np.ndarray:
        result = np.zeros((batch, self.length, len(self.parameters)))
        for index, term in state.first.items():
            result[:, :, index] = term
        return result

    def rows(self, chosen: slice | np.ndarray) -> "General":
        data = {name: column[chosen] for name, column in self.data.items()}
        return General(self.node, data, self.parameters, len(np.arange(self.length)[chosen]))


def bind(node: Node, data: Mapping[str, np.ndarray], free: Sequence[str], positive: Sequence[str]) -> Model:
    """The model of a formula on data, by its structure.

    Args:
        node: the formula, with fixed parameters already numbers.
        data: each variable's column [n].
        free: the parameters to fit, in order.
        positive: those whose domain is positive.
    """
    length = len(next(iter(data.values())))
    found = power_terms(node, set(positive), set(free))
    if found is not None:
        terms, multiplying = found
        bound = [_bind_term(term, data, list(free), length) for term in terms]
        if all(each is not None for each in bound):
            logarithmic = np.array([name in multiplying for name in free])
            return PowerSum([each for each in bound if each is not None], logarithmic, length)
    folded: dict[str, np.ndarray] = {}
    node = _fold(node, data, set(free), folded, length)
    return General(node, folded, free, length)


def _bind_term(term: Any, data: Mapping[str, np.ndarray], free: list[str], length: int) -> _Term | None:
    sign, offset = term.sign, np.zeros(1)
    with np.errstate(all="ignore"):
        for factor, power in term.constants:
            value = np.asarray(evaluate(Operation("**", (factor, power)), data), dtype=float)
            if (value < 0).all():
                sign, value = -sign, -value
            offset = offset + np.log(value)
    features = [np.asarray(evaluate(feature, data), dtype=float) for feature in term.features.values()]
    if np.isnan(offset).any() or any(not np.isfinite(feature).all() for feature in features):
        return None
    constant = all((column == column.flat[0]).all() for column in (offset, *features))
    rows = 1 if constant else length
    columns = [np.broadcast_to(np.ravel(each)[:1] if constant else each, (rows,)) for each in features]
    stacked = np.stack(columns, axis=1) if columns else np.zeros((rows, 0))
    parameters = np.array([free.index(name) for name in term.features], dtype=int)
    return _Term(sign, np.broadcast_to(offset[:1] if constant else offset, (rows,)), stacked, parameters)


def _fold(
    node: Node, data: Mapping[str, np.ndarray], free: set[str], folded: dict[str, np.ndarray], length: int
) -> Node:
    """Replace every part that holds no parameter by a column computed once."""
    if not isinstance(node, Operation):
        if isinstance(node, Name) and node.name not in free:
            folded[node.name] = data[node.name]
        return node
    inside = names(node)
    if free.isdisjoint(inside):
        if not inside:
            return node
        name = f"column {len(folded)}"
        folded[name] = np.broadcast_to(np.asarray(evaluate(node, data), dtype=float), (length,))
        return Name(name)
    return Operation(node.operator, tuple(_fold(operand, data, free, folded, length) for operand in node.operands))
