"""Search over discrete shapes for the lowest predicted loss at an exact budget, with what it costs to be off."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fits import Fit
from fits.errors import UserError, nearest
from fits.expression import evaluate, names, parse
from scaling.shapes import SearchSpace, candidates
from trainer_small.architecture import Architecture
from trainer_small.ladder import Experts

BytesPerToken = Callable[[int], float]
"""UTF-8 bytes of training text per token at a vocabulary size."""

FLAT = 0.01
"""A shape is in the flat region when at most this fraction of extra compute reaches the best loss."""
_MOST_EXTRA = 100.0


def law_variables(
    fit: Fit, shape: Architecture, tokens: float | np.ndarray, bytes_per_token: BytesPerToken | None
) -> dict[str, np.ndarray]:
    """The variables of a law for runs of one shape, by the columns that the law was bound to when it was fitted.

    Raises:
        UserError: the law needs a column that a plan cannot give.
    """
    tokens = np.asarray(tokens, dtype=float)
    columns = {name: np.full(tokens.shape, float(value)) for name, value in _shape_columns(shape).items()}
    columns["tokens"] = tokens
    if bytes_per_token is not None:
        columns["train_bytes"] = tokens * bytes_per_token(shape.vocab_size)
    binds = {name: parse(text) for name, text in fit.bind.items()}
    for name, expression in binds.items():
        for column in names(expression):
            if column not in columns:
                mend = "give the vocabulary study" if column == "train_bytes" else "fit the law again with another bind"
                raise UserError(
                    f"law '{fit.law}' takes {name} from column '{column}'{nearest(column, columns)}, "
                    f"which a plan cannot give; {mend}."
                )
    return {name: evaluate(expression, columns) for name, expression in binds.items()}


def columns_of(fit: Fit) -> set[str]:
    """The run-table columns that a law was bound to: what it can see of a model."""
    return {column for text in fit.bind.values() for column in names(parse(text))}


def _shape_columns(shape: Architecture) -> dict[str, float]:
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_layers,
        "num_experts": shape.num_experts,
        "experts_per_token": shape.experts_per_token,
        "num_shared_experts": shape.num_shared_experts,
        "expert_ffn_size": shape.expert_ffn_size,
        "params_total": shape.params_total,
        "params_active": shape.params_active,
        "params_active_non_embedding": shape.params_active_non_embedding,
        "activation_ratio": shape.activation_ratio,
        "granularity": shape.granularity,
    }


@dataclass(frozen=True)
class Search:
    """All candidate shapes at one budget, and how each law draw judges them.

    ``loss`` has shape [candidates]; ``draws`` has shape [draws, candidates].
    """

    fit: Fit
    bytes_per_token: BytesPerToken | None
    shapes: tuple[Architecture, ...]
    routings: tuple[Experts, ...]
    """The routing choice that each shape was built for."""
    tokens: np.ndarray
    loss: np.ndarray
    draws: np.ndarray
    best: int
    """Index of the chosen shape: the best, or one that is as good and suits the hardware better."""

    @property
    def shape(self) -> Architecture:
        return self.shapes[self.best]

    def column(self, name: str) -> np.ndarray:
        """One attribute of every candidate; ``tokens`` is one of them."""
        if name == "tokens":
            return self.tokens
        return np.array([getattr(shape, name) for shape in self.shapes], dtype=float)

    def regret(self, index: int) -> float:
        """Extra compute (a fraction) with which candidate ``index`` reaches the chosen shape's loss; inf if never."""
        return float(self._regret(index, self.loss[self.best : self.best + 1], draws=False)[0])

    def regret_draws(self, index: int) -> np.ndarray:
        """The same for each draw of the law: shape [draws]."""
        return self._regret(index, self.draws[:, self.best], draws=True)

    def _regret(self, index: int, target: np.ndarray, *, draws: bool) -> np.ndarray:
        """Bisection in the logarithm of the extra compute; loss falls with tokens."""

        def loss_at(factors: np.ndarray) -> np.ndarray:
            variables = law_variables(self.fit, self.shapes[index], self.tokens[index] * factors, self.bytes_per_token)
            return _loss_of_each_draw(self.fit, variables) if draws else np.asarray(self.fit.predict(**variables))

        low = np.full(target.shape, -np.log(_MOST_EXTRA))
        high = np.full(target.shape, np.log(_MOST_EXTRA))
        unreachable = loss_at(np.exp(high)) > target
        for _ in range(50):
            middle = (low + high) / 2
            above = loss_at(np.exp(middle)) > target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(unreachable, np.inf, np.expm1((low + high) / 2))

    def flat_region(self) -> np.ndarray:
        """Indices of the candidates that reach the chosen loss with at most 1 % more compute."""
        near = np.flatnonzero(self.loss <= self.loss[self.best] * (1 + FLAT))
        return np.array([index for index in near if self.regret(int(index)) <= FLAT], dtype=int)

    def decision_interval(self, name: str, level: float) -> tuple[float, float]:
        """Interval of a decision: its value at the best candidate of each draw."""
        values = self.column(name)[np.argmin(self.draws, axis=1)]
        return _interval(values, level)


def _loss_of_each_draw(fit: Fit, variables: dict[str, np.ndarray]) -> np.ndarray:
    """Draw b of the law at row b of the variables: shape [draws]."""
    coefficients = {name: fit.draws[:, index] for index, name in enumerate(fit.parameters)}
    return np.asarray(fit.as_law.evaluate(coefficients, variables))


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def search(
    fit: Fit,
    space: SearchSpace,
    train_flops: float,
    *,
    sequence_length: int,
    bytes_per_token: BytesPerToken | None = None,
) -> Search:
    """Minimise the predicted loss over every shape of the space, each trained for all of the budget.

    Args:
        train_flops: exact training FLOPs (``flops_per_token x tokens``).
        bytes_per_token: needed when the law counts data in bytes.

    Raises:
        UserError: nothing fits the budget, or the law needs a column that a plan cannot give.
    """
    shapes, routings = zip(*candidates(space, train_flops, sequence_length), strict=True)
    tokens = np.array([train_flops / shape.flops_per_token(sequence_length) for shape in shapes])
    rows = [law_variables(fit, shape, count, bytes_per_token) for shape, count in zip(shapes, tokens, strict=True)]
    variables = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    loss, draws = np.asarray(fit.predict(**variables)), fit.predict_draws(**variables)
    found = Search(fit, bytes_per_token, shapes, routings, tokens, loss, draws, int(np.argmin(loss)))
    return replace(found, best=_suit_hardware(found))


def _suit_hardware(found: Search) -> int:
    """In the flat region around the best: the width that most powers of two divide, then the fewest parameters."""

    def merit(index: int) -> tuple[int, float]:
        shape = found.shapes[index]
        return (min(shape.hidden_size & -shape.hidden_size, 256), -shape.params_total)

    return int(max(found.flat_region(), key=merit))
