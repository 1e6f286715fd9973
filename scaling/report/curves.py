"""What the fitted law says between and beyond the runs: IsoFLOP slices, frontier, and the effect of one choice."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fits import Fit
from fits.errors import UserError
from scaling.planner.loss_model import law_variables
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.ladder import Experts, Family, usual_depth
from trainer_small.sweeps.sweep import Sweep

BytesPerToken = Callable[[int], float]
_FINE = 120
"""Points of one slice."""


@dataclass(frozen=True)
class Law:
    """A fitted law with what it needs to be asked about a shape: predictions for runs of (shape, tokens)."""

    fit: Fit
    bytes_per_token: BytesPerToken | None
    level: float

    def variables(self, runs: list[tuple[Architecture, float]]) -> dict[str, np.ndarray]:
        """The law's variables for several runs: each of shape [runs]."""
        rows = [law_variables(self.fit, shape, tokens, self.bytes_per_token) for shape, tokens in runs]
        return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}

    def line(self, runs: list[tuple[Architecture, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction, low and high ends of the band for several runs."""
        variables = self.variables(runs)
        low, high = self.fit.band(self.level, new_run=False, **variables)
        return self.fit.predict(**variables), np.asarray(low), np.asarray(high)


@dataclass(frozen=True)
class Slice:
    """Loss against size at one budget, and the interval of the best size over the law's draws."""

    train_flops: float
    params_active: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    best: float
    best_low: float
    best_high: float
    best_loss: float


def isoflop_slice(law: Law, shapes: list[Architecture], train_flops: float, sequence_length: int) -> Slice | None:
    """One slice over ``shapes``; sizes with under one token or over 10,000 tokens a parameter are left out."""
    runs = [(shape, train_flops / shape.flops_per_token(sequence_length)) for shape in shapes]
    runs = [(shape, tokens) for shape, tokens in runs if 1 <= tokens / shape.params_active <= 1e4]
    if len(runs) < 4:
        return None
    # Between the widths of the ladder everything is close to a power law of the size.
    sizes = np.log([shape.params_active for shape, _ in runs])
    fine = np.linspace(sizes[0], sizes[-1], _FINE)
    variables = {name: np.exp(np.interp(fine, sizes, np.log(values))) for name, values in law.variables(runs).items()}
    params, loss, draws = np.exp(fine), law.fit.predict(**variables), law.fit.predict_draws(**variables)
    low, high = law.fit.band(law.level, new_run=False, **variables)
    tail = (1 - law.level) / 2
    best_low, best_high = np.quantile(params[np.argmin(draws, axis=1)], [tail, 1 - tail], method="nearest")
    best = int(np.argmin(loss))
    return Slice(train_flops, params, loss, low, high, params[best], best_low, best_high, loss[best])


def ladder(sweep: Sweep, vocab_size: int, experts: Experts) -> list[Architecture]:
    """Shapes of all widths with the routing and the vocabulary given, each at its usual depth."""
    first = sweep.runs[0].architecture
    family = Family.model_validate({name: getattr(first, name) for name in Family.model_fields})
    widths = sorted({16 * round(2**power) for power in np.arange(0.0, 9.0, 1 / 6)})
    return [family.shape(width, max(round(usual_depth(width)), 2), experts, vocab_size) for width in widths]


def experts_of(shape: Architecture) -> Experts:
    """The routing of a shape."""
    return Experts.model_validate({name: getattr(shape, name) for name in Experts.model_fields})


@dataclass(frozen=True)
class Effect:
    """The law along one choice at a base run, with the runs that were made there."""

    factor: str
    base: RunSpec
    at: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tried: dict[str, float]
    """Run -> its value of ``factor``: the base, and the runs that differ from it in that alone."""


def base_routing(sweep: Sweep) -> tuple[Experts, int]:
    """The routing and the vocabulary that most runs share."""
    experts, vocab_size = _most_common(sweep)
    return Experts.model_validate(dict(zip(Experts.model_fields, experts, strict=True))), vocab_size


def _most_common(sweep: Sweep) -> tuple[tuple[float, ...], int]:
    found = Counter(_routing(run.architecture) for run in sweep.runs if run.architecture.is_moe)
    if not found:
        raise UserError(f"sweep '{sweep.name}' has no mixture-of-experts run to take the routing from.")
    return found.most_common(1)[0][0]


def _routing(shape: Architecture) -> tuple[tuple[float, ...], int]:
    return tuple(round(getattr(shape, name), 3) for name in Experts.model_fields), shape.vocab_size


def effects(law: Law, sweep: Sweep) -> Iterator[Effect]:
    """The effect of experts, granularity and vocabulary, one for each base run that has variants."""
    common = _most_common(sweep)
    bases = [run for run in sweep.runs if _routing(run.architecture) == common]
    families: dict[tuple[str, str], list[RunSpec]] = {}
    for run in sweep.runs:
        factor = _changed(run.architecture, common)
        near = [base for base in bases if base.architecture.hidden_size == run.architecture.hidden_size]
        if factor and near:
            base = min(near, key=lambda each: abs(math.log(each.train_flops / run.train_flops)))
            families.setdefault((factor, base.run_id), []).append(run)
    by_id = {run.run_id: run for run in bases}
    for (factor, base_id), variants in families.items():
        yield _effect(law, factor, by_id[base_id], variants)


def _changed(shape: Architecture, common: tuple[tuple[float, ...], int]) -> str | None:
    experts, vocab_size = common
    base = dict(zip(Experts.model_fields, experts, strict=True))
    if not shape.is_moe:
        return None
    if shape.vocab_size != vocab_size:
        return "vocab_size"
    if abs(shape.granularity - base["granularity"]) > 0.05 * base["granularity"]:
        return "granularity"
    return "num_experts" if shape.num_experts != base["num_experts"] else None


def _effect(law: Law, factor: str, base: RunSpec, variants: list[RunSpec]) -> Effect:
    tried = {run.run_id: float(getattr(run.architecture, factor)) for run in (base, *variants)}
    shapes = list(_along(factor, base.architecture, min(tried.values()), max(tried.values())))
    # A vocabulary is tried at a constant cost, everything else at a constant number of tokens, as the runs were.
    flops = base.train_flops if all(abs(run.train_flops / base.train_flops - 1) < 0.05 for run in variants) else None
    length, tokens = base.training.sequence_length, base.training.tokens_trained
    same_tokens = all(abs(run.training.tokens_trained / tokens - 1) < 0.02 for run in variants)
    runs = [
        (shape, tokens if same_tokens or flops is None else flops / shape.flops_per_token(length)) for shape in shapes
    ]
    loss, low, high = law.line(runs)
    at = np.array([getattr(shape, factor) for shape in shapes], dtype=float)
    return Effect(factor, base, at, loss, low, high, tried)


def _along(factor: str, base: Architecture, low: float, high: float) -> Iterator[Architecture]:
    """The base with ``factor`` from low to high; finer experts are cut from the base's, so they are also more."""
    if factor == "granularity":
        for pieces in range(1, round(high / base.granularity) + 1):
            if base.expert_ffn_size % pieces == 0:
                width = base.expert_ffn_size // pieces
                counts = {
                    name: pieces * getattr(base, name)
                    for name in ("num_experts", "experts_per_token", "num_shared_experts")
                }
                yield base.model_copy(update={**counts, "expert_ffn_size": width, "shared_expert_ffn_size": width})
        return
    for value in np.unique(np.geomspace(low, high, 40).round().astype(int)):
        yield base.model_copy(update={factor: int(value)})


@dataclass(frozen=True)
class Frontier:
    """The lowest loss that the law predicts at each budget."""

    train_flops: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def frontier(
    law: Law, shapes: list[Architecture], low_flops: float, high_flops: float, sequence_length: int
) -> Frontier:
    """The best of ``shapes`` at 40 budgets, with the law's band there."""
    budgets = np.geomspace(low_flops, high_flops, 40)
    best = []
    for budget in budgets:
        runs = [(shape, budget / shape.flops_per_token(sequence_length)) for shape in shapes]
        best.append(runs[int(np.argmin(law.fit.predict(**law.variables(runs))))])
    loss, low, high = law.line(best)
    return Frontier(budgets, loss, low, high)
