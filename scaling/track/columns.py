"""What a log's columns hold, by the words of their names: the run's progress, or a loss and its unit."""

from collections.abc import Iterable
from dataclasses import dataclass

from fits.tables import column_words
from fits.tables.column_words import SCALES, scale_of
from fits.tables.loss_units import unit_named

_COUNTED = {
    "tokens": {"token", "tokens"},
    "steps": {"step", "steps", "iteration", "iterations", "iter", "iters", "update", "updates"},
    "samples": {"sample", "samples", "sequence", "sequences", "seqs", "example", "examples"},
}
"""By preference: tokens need nothing of the plan."""
_RUNNING = {"seen", "consumed", "total", "processed", "trained", "cumulative", "cum", "global", "optimizer", "optim"}
"""Words of a count since the start of the run, which beat a bare 'tokens' or 'step'."""
_BESIDE_COUNTS = _RUNNING | {"n", "num", "number", "of", "in", "input", "count", "current", "so", "far", "train",
                             "training", "trainer", "throughput", "metrics"}  # fmt: skip
_RATES = {"per", "s", "sec", "second", "seconds", "rate"}
_COMPOSER = {"time/token": "tokens", "time/sample": "samples", "time/batch": "steps"}
"""Names of a stack whose words alone would mean a duration."""

_VALIDATION = {"val", "valid", "validation", "eval", "evaluation", "dev", "test", "heldout"}
_TRAINING = {"train", "training", "trainer", "reduced"}
_PURE = {"lm", "ce", "nll", "xent", "entropy"}
"""Words of the cross-entropy alone, without the auxiliary losses that a stack may add to its 'loss'."""
_LOSS = {"loss", "ce", "nll", "xent"}
_BESIDE_LOSSES = _VALIDATION | _TRAINING | _PURE | _LOSS | {
    *("avg", "average", "mean", "global", "value", "metrics", "total", "main", "language", "model", "cross", "step"),
    *("bpb", "bpt", "bit", "bits", "nat", "nats", "per", "byte", "token", "ppl", "perplexity", "in"),
}  # fmt: skip
_TENSORBOARD = {"wall time", "step", "value"}


@dataclass(frozen=True)
class Progress:
    """A column that counts how far the run is."""

    name: str
    kind: str
    """tokens, steps or samples."""
    scale: float
    """What one of its numbers counts: 1e9 where the name says billions."""


@dataclass(frozen=True)
class LossColumn:
    name: str
    words: tuple[str, ...]
    unit: str | None
    """As the name says it; None where it says nothing."""

    @property
    def is_validation(self) -> bool:
        return bool(_VALIDATION & set(self.words))

    @property
    def is_training(self) -> bool:
        return bool(_TRAINING & set(self.words)) and not self.is_validation

    @property
    def purity(self) -> int:
        """0 for a cross-entropy, 1 for a loss, 2 for a total."""
        return 0 if _PURE & set(self.words) else 2 if "total" in self.words else 1


def metric_of(name: str) -> str:
    """The metric that a column holds, without the run's name that W&B's exports put before it."""
    return name.rsplit(" - ", 1)[-1].strip()


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column's metric: ``run - metrics/LanguageCrossEntropy`` has metrics, language, cross, entropy."""
    return column_words.words_of(metric_of(name))


def progress_columns(names: Iterable[str]) -> list[Progress]:
    """Columns whose names say that they count tokens, steps or samples since the start, the best first."""
    found = [column for name in names if (column := _progress(name)) is not None]
    kinds = list(_COUNTED)
    return sorted(found, key=lambda column: (kinds.index(column.kind), _doubt(column.name)))


def _progress(name: str) -> Progress | None:
    words = set(words_of(name))
    kinds = [kind for kind, counted in _COUNTED.items() if words & counted]
    known = len(kinds) == 1 and words <= _BESIDE_COUNTS | set(SCALES) | _COUNTED[kinds[0]] and not _is_range(name)
    if "throughput" in words and not words & _RUNNING:  # then it is a rate
        known = False
    return as_progress(name) if known or metric_of(name).lower() in _COMPOSER else None


def _doubt(name: str) -> int:
    """W&B's own ``_step`` counts its calls, not the optimizer's steps."""
    return 2 if metric_of(name) == "_step" else 0 if _RUNNING & set(words_of(name)) else 1


def as_progress(name: str) -> Progress:
    """What a column counts that is said to be the run's progress; steps where its name says nothing."""
    if metric_of(name).lower() in _COMPOSER:
        return Progress(name, _COMPOSER[metric_of(name).lower()], 1.0)
    words = words_of(name)
    kind = next((kind for kind, counted in _COUNTED.items() if set(words) & counted), None)
    scale = scale_of(metric_of(name)) if kind else None
    return Progress(name, kind or "steps", float(scale or 1.0))


def is_rate(column: Progress) -> bool:
    """Whether the name says that this is counted in a second or a batch, not since the start."""
    return bool((_RATES if column.kind == "steps" else _RATES | {"batch", "microbatch"}) & set(words_of(column.name)))


def loss_columns(names: Iterable[str], *, tag: str | None) -> list[LossColumn]:
    """Columns whose names say that they hold a cross-entropy, in the file's order.

    Args:
        names: of all columns.
        tag: what ``Value`` is in TensorBoard's table of one metric (``Wall time``, ``Step``, ``Value``).
    """
    names = list(names)
    if {name.strip().lower() for name in names} == _TENSORBOARD:
        value = next(name for name in names if name.strip().lower() == "value")
        said = as_loss(tag or "loss")
        return [LossColumn(value, said.words, said.unit)] if _is_loss(said) else []
    return [column for column in map(as_loss, names) if _is_loss(column) and not _is_range(column.name)]


def as_loss(name: str) -> LossColumn:
    """What the name of a column says that is known to be a loss."""
    words = words_of(name)
    return LossColumn(name, words, unit_named(words))


def _is_loss(column: LossColumn) -> bool:
    words = set(column.words)
    return words <= _BESIDE_LOSSES and bool(column.unit or words & _LOSS or {"cross", "entropy"} <= words)


def _is_range(name: str) -> bool:
    """The extremes over the points that one row of a W&B export stands for."""
    return name.endswith(("__MIN", "__MAX"))
