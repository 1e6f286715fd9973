"""The best vocabulary size straight from runs: at one budget, a parabola of the loss in ln V for each model.

Nothing is assumed of how the loss depends on size or data. The optima of the models give a power law, vocabulary
parameters ~ N**gamma, and resampling whole training curves gives its interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from fits.errors import UserError
from fits.schema import Schema
from fits.tables.runs import filter_rows, read_runs, usable_runs

COLUMNS = ("params", "hidden_size", "vocab_size", "flops", "loss")
FEWEST_SIZES = 4
REFUSED = 0.95
"""Level at which a parabola through repeated runs is refused."""
SAME_BUDGET = 0.02
"""A run without checkpoints counts at a budget that it meets to this share."""
Metric = Literal["bits-per-byte", "unigram-normalised"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """The losses of one model at its budget, one element a vocabulary size."""

    params: float
    hidden_size: float
    log_sizes: Floats
    losses: Floats

    @property
    def vocab_size(self) -> float | None:
        """Where the parabola is lowest, or ``None`` when that is not between the smallest and the largest size."""
        if len(np.unique(self.log_sizes)) < 3:
            return None
        bend, slope, _ = np.polyfit(self.log_sizes, self.losses, 2)
        if bend <= 0 or not self.log_sizes.min() < -slope / (2 * bend) < self.log_sizes.max():
            return None
        return math.exp(-slope / (2 * bend))

    @property
    def scatter(self) -> float:
        """Root mean square of the losses about the parabola."""
        fitted = np.polyval(np.polyfit(self.log_sizes, self.losses, 2), self.log_sizes)
        return float(np.sqrt(np.mean((fitted - self.losses) ** 2)))

    @property
    def noise(self) -> float | None:
        """Standard deviation between runs of one size, pooled; ``None`` where no size was repeated."""
        _, size, repeats, means = self._by_size()
        freedom = len(self.losses) - len(repeats)
        return float(np.sqrt(np.sum((self.losses - means[size]) ** 2) / freedom)) if freedom else None

    def _by_size(self) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp], Floats]:
        """ln of the sizes, the index of each run's size, and the runs and mean loss of each size."""
        sizes, size, repeats = np.unique(self.log_sizes, return_inverse=True, return_counts=True)
        return sizes, size, repeats, np.bincount(size, weights=self.losses) / repeats

    def misfit(self) -> float:
        """Standard deviation of a run that would explain how far the means of sizes lie from the parabola."""
        sizes, _, repeats, means = self._by_size()
        if len(sizes) < 4:
            return 0.0
        fitted = np.polyval(np.polyfit(self.log_sizes, self.losses, 2), sizes)
        return float(np.sqrt(repeats @ np.square(means - fitted) / (len(sizes) - 3)))

    def refused(self, noise: float, freedom: int) -> bool:
        """Whether the F test for lack of fit refuses the parabola; ``freedom`` is that of the noise."""
        between = len(np.unique(self.log_sizes)) - 3
        return between > 0 and self.misfit() > noise * math.sqrt(f_distribution.ppf(REFUSED, between, freedom))

    def near_optimum(self) -> "Slice":
        """Without the sizes that are too far from the best one for a parabola, as the noise of repeats tells.

        A loss is a parabola in ln V only near its minimum. While the F test for lack of fit refuses it, the size
        furthest from the lowest loss goes; four sizes stay. Without repeats nothing tells, and all stay.
        """
        here, noise, freedom = self, self.noise, len(self.losses) - len(np.unique(self.log_sizes))
        while noise is not None and here.refused(noise, freedom):
            sizes, _, _, means = here._by_size()
            if len(sizes) == FEWEST_SIZES:
                break
            furthest = max(sizes[0], sizes[-1], key=lambda end: abs(end - sizes[means.argmin()]))
            kept = here.log_sizes != furthest
            here = Slice(here.params, here.hidden_size, here.log_sizes[kept], here.losses[kept])
        return here

    def resampled(self, generator: np.random.Generator) -> "Slice":
        """A draw of the same: whole curves again, some twice; where sizes were repeated, the parabola with new noise.

        The noise is that of the repeats, drawn as uncertain as they leave it, or what explains the misfit where the
        parabola is refused.
        """
        sizes, noise = len(np.unique(self.log_sizes)), self.noise
        if noise is not None and sizes >= 3:
            freedom = len(self.losses) - sizes
            spread = noise * math.sqrt(freedom / generator.chisquare(freedom))
            if self.refused(noise, freedom):
                spread = self.misfit()
            fitted = np.polyval(np.polyfit(self.log_sizes, self.losses, 2), self.log_sizes)
            losses = fitted + generator.normal(0, spread, len(fitted))
            return Slice(self.params, self.hidden_size, self.log_sizes, losses)
        drawn = generator.integers(len(self.losses), size=len(self.losses))
        return Slice(self.params, self.hidden_size, self.log_sizes[drawn], self.losses[drawn])


@dataclass(frozen=True)
class VocabularyLaw:
    """vocabulary parameters V d = coefficient x N**gamma, N the parameters outside the vocabulary."""

    coefficient: float
    gamma: float

    def vocab_size(self, params: float, hidden_size: float) -> float:
        """The best size of a model."""
        return self.coefficient * params**self.gamma / hidden_size


def read_vocabulary_runs(path: str | Path, where: str = "", metric: Metric = "bits-per-byte") -> pd.DataFrame:
    """A run table of this toolkit in the columns needed here.

    Args:
        path: .csv, .jsonl or .parquet.
        where: a condition on the rows, such as ``num_experts == 8``.
        metric: a loss that can be compared across vocabularies: ``bits-per-byte``, or ``unigram-normalised``, which
            is ``loss`` less ``unigram_loss`` (arXiv 2407.13623).

    Raises:
        UserError: names the file, row, column and value at fault.
    """
    names = ["params_active_non_embedding", "hidden_size", "vocab_size", "train_flops"]
    measured = ["bits_per_byte"] if metric == "bits-per-byte" else ["loss", "unigram_loss"]
    runs, _ = usable_runs(read_runs(path, required=(*names, *measured)))
    if where:
        runs = filter_rows(runs, where, source=path)
    table = pd.DataFrame({ours: runs[name] for ours, name in zip(COLUMNS, names, strict=False)})
    table["loss"] = runs["bits_per_byte"] if metric == "bits-per-byte" else runs["loss"] - runs["unigram_loss"]
    return table.assign(seed=runs["seed"]) if "seed" in runs.columns else table


def isoflop_slices(runs: pd.DataFrame, flops: Callable[[float], float]) -> list[Slice]:
    """Read every model's curves at its budget.

    Args:
        runs: one row a checkpoint or a run, with ``params`` (outside the vocabulary), ``hidden_size``,
            ``vocab_size``, ``flops`` and ``loss``, a loss that can be compared across vocabularies; with ``seed``
            where runs were repeated.
        flops: the budget at which a model of so many parameters is read, inside its curves or a little beyond.

    Raises:
        UserError: a column is missing.
    """
    for column in COLUMNS:
        if column not in runs.columns:
            raise UserError(f"the runs have no column '{column}'; they need {', '.join(COLUMNS)}.")
    slices = []
    for _, model in runs.groupby(["params", "hidden_size"]):
        params, hidden_size = (float(model[name].iloc[0]) for name in ("params", "hidden_size"))
        budget = math.log(flops(params))
        each = [name for name in ("vocab_size", "seed") if name in model.columns]
        curves = [curve.sort_values("flops") for _, curve in model.groupby(each)]
        found = [(math.log(curve["vocab_size"].iloc[0]), _loss_at(budget, curve)) for curve in curves]
        points = [(log_size, loss) for log_size, loss in found if loss is not None]
        if points:
            log_sizes, losses = np.array(points).T
            slices.append(Slice(params, hidden_size, log_sizes, losses).near_optimum())
    return slices


def common_budget(runs: pd.DataFrame) -> Callable[[float], float]:
    """For each model the largest budget that all its curves reach."""
    curves = runs.groupby(["params", "vocab_size"], as_index=False).agg({"flops": "max"})
    reached = {params: float(np.min(model["flops"].to_numpy())) for params, model in curves.groupby("params")}
    return lambda params: reached[params]


def _loss_at(budget: float, curve: pd.DataFrame) -> float | None:
    """The loss at ln FLOPs ``budget``: on the line between two checkpoints, or of the last two beyond the end.

    A run alone has its loss at its own budget and none at another.
    """
    log_flops, losses = np.log(curve["flops"].to_numpy()), curve["loss"].to_numpy()
    if np.ptp(log_flops) == 0:
        return float(losses.mean()) if abs(math.expm1(log_flops[0] - budget)) <= SAME_BUDGET else None
    after = int(np.clip(np.searchsorted(log_flops, budget), 1, len(log_flops) - 1))
    share = (budget - log_flops[after - 1]) / (log_flops[after] - log_flops[after - 1])
    return float(losses[after - 1] + share * (losses[after] - losses[after - 1]))


def fit_law(slices: Sequence[Slice]) -> VocabularyLaw | None:
    """The power law through the models' optima (least squares in logs); ``None`` where fewer than two have one."""
    found = [(slice.params, slice.vocab_size * slice.hidden_size) for slice in slices if slice.vocab_size is not None]
    if len({params for params, _ in found}) < 2:
        return None
    params, matrices = np.log(np.array(found)).T
    gamma, intercept = np.polyfit(params, matrices, 1)
    return VocabularyLaw(math.exp(intercept), float(gamma))


class ModelOptimum(Schema):
    """The best size of one model of the runs, or none between the smallest and the largest trained."""

    params: float
    hidden_size: int
    vocab_size: int | None
    low: int | None
    high: int | None
    identified: float
    """Share of the draws that have an optimum inside; the interval is of those."""


def model_optima(slices: Sequence[Slice], *, level: float = 0.9, draws: int = 500, seed: int = 0) -> list[ModelOptimum]:
    """Each model by itself, with the interval of its resampled runs."""
    generator = np.random.default_rng(seed)
    optima = []
    for slice in slices:
        drawn = [slice.resampled(generator).vocab_size for _ in range(draws)]
        sizes = [size for size in drawn if size is not None]
        best = slice.vocab_size
        low, high = np.quantile(sizes, [(1 - level) / 2, (1 + level) / 2]) if sizes else (math.nan, math.nan)
        optima.append(
            ModelOptimum(
                params=slice.params,
                hidden_size=round(slice.hidden_size),
                vocab_size=None if best is None else round(best),
                low=None if best is None or not sizes else round(low),
                high=None if best is None or not sizes else round(high),
                identified=len(sizes) / draws,
            )
        )
    return optima


class RunsAnswer(Schema):
    """The best size of a model by runs, with the interval of its draws."""

    vocab_size: int
    low: int
    high: int
    level: float
    gamma: float
    identified: float
    """Share of the draws that identify a law."""
    decades_beyond: float
    """How far the model asked for is beyond the largest (or below the smallest, negative) of the runs."""


def answer_from_runs(
    runs: pd.DataFrame,
    params: float,
    hidden_size: float,
    *,
    flops: Callable[[float], float] | None = None,
    level: float = 0.9,
    draws: int = 500,
    seed: int = 0,
) -> RunsAnswer | None:
    """The best vocabulary of a model by the runs, or ``None`` where they do not identify one.

    Args:
        runs: as ``isoflop_slices``.
        params: N of the model asked for.
        hidden_size: d of it.
        flops: the budget at which each model of the runs is read; ``None`` takes the ``common_budget``.
        level: of the interval.
        draws: resamples of the curves.
        seed: of the resampling.

    Raises:
        UserError: a column is missing.
    """
    if not set(COLUMNS) - set(runs.columns):
        flops = flops or common_budget(runs)
    slices = isoflop_slices(runs, flops or float)
    law = fit_law(slices)
    if law is None:
        return None
    sizes = [drawn.vocab_size(params, hidden_size) for drawn in bootstrap_laws(slices, draws=draws, seed=seed)]
    if len(sizes) < 0.5 * draws:
        return None
    low, high = np.quantile(sizes, [(1 - level) / 2, (1 + level) / 2])
    return RunsAnswer(
        vocab_size=round(law.vocab_size(params, hidden_size)),
        low=round(low),
        high=round(high),
        level=level,
        gamma=law.gamma,
        identified=len(sizes) / draws,
        decades_beyond=_decades_beyond(params, [slice.params for slice in slices]),
    )


def _decades_beyond(params: float, trained: Sequence[float]) -> float:
    if params > max(trained):
        return math.log10(params / max(trained))
    return min(0.0, math.log10(params / min(trained)))


def bootstrap_laws(slices: Sequence[Slice], *, draws: int = 500, seed: int = 0) -> list[VocabularyLaw]:
    """The law of resampled curves; draws that identify none are left out, so count what comes back."""
    generator = np.random.default_rng(seed)
    laws = (fit_law([slice.resampled(generator) for slice in slices]) for _ in range(draws))
    return [law for law in laws if law is not None]
