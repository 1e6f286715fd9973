"""Published coefficient sets: data files with their source, conventions and range, and how far one is outside it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fits.errors import UserError, nearest
from fits.html import card
from fits.laws import get_law
from fits.laws.law import Law
from fits.schema import Schema

_FOLDER = Path(__file__).parents[1] / "published"


class CoefficientSet(Schema):
    """One set of coefficients as printed by its source."""

    name: str
    law: str
    title: str
    quantity: Literal[
        "loss",
        "params",
        "flops_per_token",
        "tokens",
        "learning_rate",
        "batch_tokens",
        "vocab_size",
        "leverage",
        "timescale",
    ]
    unit: str
    models: Literal["dense", "moe"]
    coefficients: dict[str, float]
    where: str
    """Equation, table or file in the source."""
    evidence: Literal["primary", "released", "refit", "secondary", "memory"]
    """Read in the paper; read in its code; fitted to its data here; read in another's text; recalled."""
    conventions: dict[str, str]
    range: dict[str, tuple[float, float]] = {}
    """Variable (or C) -> lowest and highest value it was fitted on."""
    allocation: str | None = None
    """Sets of one allocation (its size and its tokens) carry one name."""
    advice: bool = True
    """False keeps a set out of comparisons of advice."""
    notes: str = ""


class Paper(Schema):
    """A file of published sets."""

    schema_version: Literal[1] = 1
    arxiv: str
    paper: str
    sets: list[CoefficientSet]


@dataclass(frozen=True)
class Evaluation:
    """A published law's answer, and whether it was asked within its range."""

    value: Any
    unit: str
    in_range: bool | None
    """None when the source states no range."""
    warnings: list[str]


@dataclass(frozen=True)
class Published:
    """A coefficient set with its law."""

    record: CoefficientSet
    paper: Paper
    law: Law

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def source(self) -> str:
        home = self.paper.paper if self.paper.arxiv == "-" else f"arXiv {self.paper.arxiv}"
        return f"{home}, {self.record.where}"

    def _repr_html_(self) -> str:
        return card(
            self.name,
            about=f"{self.record.models}; {self.source}",
            code=f"{self.law.response} = {self.law.formula}",
            columns=["coefficient", "value"],
            rows=[[name, float(value)] for name, value in self.record.coefficients.items()],
            notes=[
                *(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in self.record.range.items()),
                *filter(None, [self.record.notes]),
            ],
        )

    def evaluate(self, **variables: Any) -> Evaluation:
        """The law's value with these coefficients, with a warning for each variable outside its range.

        Raises:
            UserError: a variable is missing, unknown or not above zero.
        """
        for name, value in variables.items():
            if name in self.law.variable_names and not (np.asarray(value, dtype=float) >= 0).all():
                raise UserError(f"{name} is {value}; it must be 0 or more.")
        value = self.law.evaluate(self.record.coefficients, variables)
        asked = dict(variables)
        if "C" not in asked and {"N", "D"} <= set(asked):
            asked["C"] = 6 * np.asarray(asked["N"], dtype=float) * np.asarray(asked["D"], dtype=float)
        warnings = [
            warning
            for name, (low, high) in self.record.range.items()
            if name in asked and (warning := _outside(name, asked[name], low, high))
        ]
        in_range: bool | None = not warnings
        if not self.record.range:
            in_range = None
            warnings.append(f"{self.name}: the source states no range of validity.")
        if self.record.evidence in ("memory", "secondary"):
            warnings.append(
                f"{self.name}: coefficients {_EVIDENCE[self.record.evidence]}; check before relying on them."
            )
        return Evaluation(float(value) if np.ndim(value) == 0 else value, self.record.unit, in_range, warnings)

    def decades_outside(self, name: str, value: float) -> float | None:
        """Decades beyond the range of a variable (0 inside), or None when the source states none."""
        if name not in self.record.range:
            return None
        low, high = self.record.range[name]
        return float(max(np.log10(value / high), np.log10(low / value), 0.0))


_EVIDENCE = {"memory": "are recalled, not read in the paper", "secondary": "come from another's text, not the paper"}


def _outside(name: str, value: Any, low: float, high: float) -> str:
    values = np.asarray(value, dtype=float)
    beyond = np.log10(values.max() / high) if values.max() > high else 0.0
    below = np.log10(low / values.min()) if 0 < values.min() < low else 0.0
    if beyond <= 1e-9 and below <= 1e-9:
        return ""
    side = f"{beyond:.1f} decades above" if beyond >= below else f"{below:.1f} decades below"
    value = values.max() if beyond >= below else values.min()
    return f"{name} = {value:.3g} is {side} the fitted range {low:.3g} to {high:.3g}."


@lru_cache(maxsize=1)
def _load() -> dict[str, Published]:
    known: dict[str, Published] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        paper = Paper.load(path)
        for record in paper.sets:
            law = get_law(record.law)
            if set(record.coefficients) != set(law.parameter_names):
                raise UserError(f"{path}: set '{record.name}' must give exactly {', '.join(law.parameter_names)}.")
            if record.name in known:
                raise UserError(f"{path}: set '{record.name}' is already published by another file; rename it.")
            known[record.name] = Published(record, paper, law)
    return known


def list_published() -> list[Published]:
    """Every published set."""
    return list(_load().values())


def published(name: str) -> Published:
    """The published set of that name, or the only set of the law of that name.

    Raises:
        UserError: there is none, or the law has several.
    """
    known = _load()
    if name in known:
        return known[name]
    sets = [each for each in known.values() if each.law.name == name]
    if len(sets) == 1:
        return sets[0]
    if sets:
        raise UserError(f"Law '{name}' has {len(sets)} published sets; choose {', '.join(each.name for each in sets)}.")
    raise UserError(f"There is no published set '{name}'{nearest(name, known)}; `scaling laws list` shows them all.")
