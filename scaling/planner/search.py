"""Search over discrete shapes for the lowest predicted loss at an exact budget, with what it costs to be off."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fits.errors import UserError
from fits.laws.expression import evaluate, names, parse
from scaling.cluster.serving import inference_flops
from scaling.planner.constraints import KEPT, Constraint, Feasibility
from scaling.planner.loss_model import LossModel, Text
from scaling.planner.search_space import SearchSpace
from scaling.planner.shapes import ShapeTable, blocks
from trainer_small.architecture import Architecture

FLAT = 0.01
"""A shape is in the flat region when at most this fraction of extra compute reaches the best loss."""
_MOST_EXTRA = 100.0
_USUAL_DEPTH = 0.2
"""Layers within about 20 % of the usual depth are usual."""
_CONTENDERS = 30_000
"""Shapes that every draw of a law chooses from: the best by the fit, one a width, depth, routing and vocabulary."""
_AT_ONCE = 4_000_000
"""Losses in memory at a time: draws x shapes."""


@dataclass(frozen=True)
class Spending:
    """What there is to spend: training FLOPs by the exact count, less what serving is set aside."""

    flops: float
    text: Text
    inference_tokens: float = 0.0

    def tokens(self, of: Any) -> Any:
        """Training tokens that are left for a shape; 0 or less when serving takes it all."""
        left = self.flops - inference_flops(of, self.inference_tokens)
        return left / of.flops_per_token(self.text.sequence_length)


@dataclass(frozen=True)
class Candidates:
    """Shapes of a space that keep the limits (``verdict`` KEPT), or break one that a stated loosening would allow."""

    space: SearchSpace
    spending: Spending
    constraints: Sequence[Constraint]
    table: ShapeTable
    tokens: np.ndarray
    verdict: np.ndarray
    tried: int
    """How many shapes were counted to find these."""

    def among(self, rows: np.ndarray) -> "Candidates":
        """Some of them."""
        return replace(self, table=self.table.take(rows), tokens=self.tokens[rows], verdict=self.verdict[rows])


def candidates(space: SearchSpace, spending: Spending, constraints: Sequence[Constraint]) -> Candidates:
    """Every shape of the space that the budget can train under the limits.

    Raises:
        UserError: none is left; says which limits stand in the way.
    """
    feasibility, tables, counts_of, verdicts, tried = Feasibility(constraints), [], [], [], 0
    # A token of the largest shape costs 6 FLOPs a parameter, and it sees ``low`` tokens for each.
    most = (6 * spending.flops / (space.tokens_per_parameter[0] / 2)) ** 0.5 * 1.5
    for block in blocks(space, most_flops_per_token=most):
        tokens = np.asarray(spending.tokens(block), dtype=float)
        verdict = feasibility.check(block, tokens)
        rows = np.flatnonzero((verdict >= KEPT) & (tokens > 0))
        tried += len(block)
        tables.append(block.take(rows))
        counts_of.append(tokens[rows])
        verdicts.append(verdict[rows])
    verdict = np.concatenate(verdicts) if verdicts else np.array([], dtype=np.int64)
    if not (verdict == KEPT).any():
        raise feasibility.contradiction(spending.flops)
    return Candidates(
        space, spending, constraints, ShapeTable.joined(tables), np.concatenate(counts_of), verdict, tried
    )


@dataclass(frozen=True)
class Search:
    """How a law judges the candidates. ``loss`` has shape [candidates]; ``best`` is the row of the chosen shape."""

    loss_model: LossModel
    candidates: Candidates
    usual: np.ndarray
    """Whether a candidate is usual in what the law cannot judge; only such a one is chosen."""
    loss: np.ndarray
    best: int

    @property
    def table(self) -> ShapeTable:
        return self.candidates.table

    @property
    def tokens(self) -> np.ndarray:
        return self.candidates.tokens

    @property
    def text(self) -> Text:
        return self.candidates.spending.text

    @property
    def allowed(self) -> np.ndarray:
        return self.usual & (self.candidates.verdict == KEPT)

    @cached_property
    def shape(self) -> Architecture:
        return self.table.architecture(self.best)

    @cached_property
    def lowest(self) -> int:
        """The row of the lowest loss, whether or not the hardware likes it."""
        return int(np.argmin(np.where(self.allowed, self.loss, np.inf)))

    def column(self, name: str) -> np.ndarray:
        """One number of every candidate; ``tokens`` is one of them."""
        return np.asarray(self.tokens if name == "tokens" else getattr(self.table, name))

    def regret(self, rows: Any, *, to: int | None = None) -> np.ndarray:
        """Extra compute (a fraction) with which rows reach the chosen shape's loss, or row ``to``'s; inf if never."""
        rows = np.atleast_1d(rows)
        return self.regret_of(self.table.take(rows), self.tokens[rows], to=to)

    def regret_of(self, of: Any, tokens: Any, *, to: int | None = None, text: Text | None = None) -> np.ndarray:
        """The same of any shapes, in the table or not, that spend the budget on ``tokens``."""
        spent = np.atleast_1d(np.asarray(tokens, dtype=float))
        target = np.full(len(spent), self.loss[self.best if to is None else to])
        return _bisect(lambda factor: self.loss_model.loss(of, spent * factor, text or self.text), target)

    def regret_draws(self, of: Any, tokens: float, *, to: int | None = None, text: Text | None = None) -> np.ndarray:
        """The same of one shape for each draw of the law, [B]."""
        goal = [self.best if to is None else to]
        target = self.loss_model.draws(self.table.take(goal), self.tokens[goal], self.text)[:, 0]
        return _bisect(
            lambda factor: self.loss_model.draws(of, tokens * factor[:, None], text or self.text)[:, 0], target
        )

    def regret_interval(
        self, of: Any, tokens: float, level: float, *, to: int | None = None, text: Text | None = None
    ) -> tuple[float | None, float | None]:
        """Interval of one shape's regret over the draws; an end is None without draws, or where it is infinite."""
        if not self.loss_model.number_of_draws:
            return None, None
        draws = self.regret_draws(of, tokens, to=to, text=text)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return finite(low), finite(high)

    @cached_property
    def flat(self) -> np.ndarray:
        """Rows that reach the lowest loss with at most 1 % more compute than the budget."""
        return _flat(self.loss_model, self.candidates, self.loss, self.allowed)

    @cached_property
    def contenders(self) -> np.ndarray:
        """Rows that the draws choose from."""
        allowed = np.flatnonzero(self.allowed & np.isfinite(self.loss))
        order = allowed[np.argsort(self.loss[allowed], kind="stable")]
        cell = np.zeros(len(order), dtype=np.int64)
        for name in ("hidden_size", "num_layers", "num_experts", "experts_per_token", "expert_ffn_size", "vocab_size"):
            values, index = np.unique(self.column(name)[order], return_inverse=True)
            cell = cell * len(values) + index
        _, first = np.unique(cell, return_index=True)
        return order[np.sort(first)][:_CONTENDERS]

    @cached_property
    def best_of_draws(self) -> np.ndarray:
        """The row that each draw of the law likes best, [B]."""
        rows, draws = self.contenders, self.loss_model.number_of_draws
        lowest, chosen = np.full(draws, np.inf), np.zeros(draws, dtype=np.int64)
        step = max(_AT_ONCE // max(draws, 1), 1)
        for start in range(0, len(rows) if draws else 0, step):
            some = rows[start : start + step]
            loss = self.loss_model.draws(self.table.take(some), self.tokens[some], self.text)
            index = loss.argmin(axis=1)
            value = loss[np.arange(draws), index]
            better = value < lowest
            lowest, chosen = np.where(better, value, lowest), np.where(better, some[index], chosen)
        return chosen

    def decision_interval(self, name: str, level: float) -> tuple[float, float]:
        """Interval of a decision: its value at the best shape of each draw of a fitted law."""
        low, high = np.quantile(self.column(name)[self.best_of_draws], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def search(loss_model: LossModel, found: Candidates) -> Search:
    """Minimise the predicted loss over the candidates, each trained for all of the budget.

    Raises:
        UserError: the law prices none of them, or needs a column that a plan cannot give.
    """
    if loss_model.holds:
        found = found.among(held(loss_model, found.table))
        if not (found.verdict == KEPT).any():
            raise UserError(
                f"law '{loss_model.name}' prices shapes with {loss_model.holds} only, and no candidate is one; "
                "give a search space that has some, or another law."
            )
    loss = np.asarray(loss_model.loss(found.table, found.tokens, found.spending.text))
    usual = _usual(loss_model, found)
    allowed = usual & (found.verdict == KEPT)
    if not np.isfinite(loss[allowed]).any():
        raise UserError(f"law '{loss_model.name}' gives no finite loss for any candidate; it is asked too far away.")
    return Search(loss_model, found, usual, loss, _suit_hardware(found, loss, _flat(loss_model, found, loss, allowed)))


def held(loss_model: LossModel, table: ShapeTable) -> np.ndarray:
    """The rows that a law was fitted to."""
    return np.flatnonzero(held_by(loss_model, table))


def held_by(loss_model: LossModel, of: Any) -> Any:
    """Whether a shape, or each of a table, is of the kind that a law was fitted to."""
    condition = parse(loss_model.holds, conditions=True)
    return evaluate(condition, {name: getattr(of, name) for name in names(condition)})


def finite(value: float) -> float | None:
    """A number for a file; None for one that is infinite."""
    return float(value) if np.isfinite(value) else None


def _usual(loss_model: LossModel, found: Candidates) -> np.ndarray:
    """Candidates with the depth, heads, dense layers and shared experts that published models have.

    A law that sees these through parameter counts only would take the cheapest, such as a model of few heads: it cannot
    tell it from a usual one. Where no usual one keeps the limits, all stand.
    """
    table, family, kept = found.table, found.space.family, found.verdict == KEPT
    judgements = {
        "num_layers": np.abs(np.log(table.depth_factor)) < _USUAL_DEPTH,
        "num_attention_heads": table.num_attention_heads == table.usual_heads,
        "num_dense_layers": (table.num_dense_layers == family.num_dense_layers) | (table.num_experts == 0),
        "num_shared_experts": (table.num_shared_experts == 1) | (table.num_experts == 0),
    }
    usual = np.ones(len(table), dtype=bool)
    for name, ordinary in judgements.items():
        if name not in loss_model.sees and (usual & ordinary & kept).any():
            usual &= ordinary
    return usual


def _flat(loss_model: LossModel, found: Candidates, loss: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Allowed rows that 1 % more compute brings to the lowest loss among them."""
    lowest = float(loss[allowed].min())
    near = np.flatnonzero(allowed & (loss <= lowest + 0.05 * abs(lowest)))
    more = loss_model.loss(found.table.take(near), found.tokens[near] * (1 + FLAT), found.spending.text)
    return near[more <= lowest]


def _suit_hardware(found: Candidates, loss: np.ndarray, flat: np.ndarray) -> int:
    """Of shapes that are as good: the width that most powers of two divide, then the usual depth, then clearly fewer
    parameters, then the lowest loss."""
    table = found.table.take(flat)
    aligned = np.minimum(table.hidden_size & -table.hidden_size, 256)
    odd = np.round(10 * np.abs(np.log(table.depth_factor)))
    size = np.round(10 * np.log(table.params_total))
    return int(flat[np.lexsort((loss[flat], size, odd, -aligned))[0]])


def _bisect(loss_at: Any, target: np.ndarray) -> np.ndarray:
    """The factor of extra compute at which each falling curve meets its target, less 1; bisected in its logarithm."""
    low = np.full(target.shape, -np.log(_MOST_EXTRA))
    high = np.full(target.shape, np.log(_MOST_EXTRA))
    unreachable = ~(loss_at(np.exp(high)) <= target)
    for _ in range(50):
        middle = (low + high) / 2
        above = loss_at(np.exp(middle)) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(unreachable, np.inf, np.expm1((low + high) / 2))
