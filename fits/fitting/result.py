"""A fitted law: coefficients with intervals, the draws behind them, the proof of convergence, and predictions."""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, PlainSerializer, PlainValidator, model_validator

from fits.errors import UserError
from fits.files import write_text
from fits.html import card
from fits.laws import list_laws
from fits.laws.expression import as_written, evaluate, names, parse
from fits.laws.law import Law, Parameter, Variable
from fits.numbers import quantity
from fits.schema import Schema
from fits.tables.meaning import COUNTS, meaning_of


def _matrix(value: Any) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError("draws must be rows of finite numbers, one row a draw")
    return array


Draws = Annotated[np.ndarray, PlainValidator(_matrix), PlainSerializer(lambda array: array.tolist(), list)]


class VariableRecord(Schema):
    """A variable of the law, the column or expression it was bound to, and what it means to a plan."""

    name: str
    meaning: str
    bound_to: str
    means: str | None = None
    """An expression over ``fits.tables.meaning.PLAN_COLUMNS``; None when no plan can know it."""
    low: float
    high: float


class ParameterRecord(Schema):
    """A parameter's declaration in the law."""

    name: str
    meaning: str
    domain: str | tuple[float, float]


class Estimate(Schema):
    """A value with its interval at the fit's level and its standard error."""

    value: float
    low: float
    high: float
    standard_error: float
    how: Literal["fitted", "fixed", "tied"] = "fitted"


class ObjectiveRecord(Schema):
    """What was minimised, and the minimum (summed over runs); least squares has no delta."""

    name: str
    delta: float | None
    value: float


class Convergence(Schema):
    """The proof that the optimum was reached.

    ``gradient_norm`` is the largest derivative of the objective by a solver coordinate (the logarithm of a positive
    parameter); ``condition_number`` that of the Jacobian with unit columns, ``None`` when it is singular.
    """

    converged: bool
    gradient_norm: float
    screened: int
    starts: int
    starts_at_best: int
    distance_from_start: float
    condition_number: float | None
    at_bound: list[str]
    at_start: list[str]


class BootstrapRecord(Schema):
    """How the intervals were made."""

    kind: str
    requested: int
    failed: int
    seed: int
    reason: str


class DataRecord(Schema):
    """Which numbers were fitted: the sha256 is over the bound columns, in order, as 64-bit floats."""

    path: str | None
    loss: str
    rows: int
    sha256: str
    where: str | None = None
    """The condition that chose the rows, when one did."""


def _as_expression(bound_to: str) -> str:
    """A binding of an older file: an expression, or the bare name of a column."""
    try:
        parse(bound_to)
    except UserError:
        return as_written(bound_to)
    return bound_to


class Fit(Schema):
    """A fitted law. ``draws`` is [B, p] in the order of ``parameters``; intervals of anything come from it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )

    schema_version: Literal[1] = 1
    law: str
    formula: str
    definitions: dict[str, str]
    response: str
    unit: str
    source: str
    variables: list[VariableRecord]
    parameter_records: list[ParameterRecord]
    objective: ObjectiveRecord
    n_runs: int
    level: float
    parameters: dict[str, Estimate]
    ranges: dict[str, tuple[float, float]]
    """Smallest and largest value fitted, of every variable, the loss, and train_flops when the table has it."""
    constants: dict[str, float] = {}
    """Our columns that were the same on every row, whatever the table calls them (``fits.tables.settings``)."""
    commonest: dict[str, float] = {}
    """What most rows had of those that varied."""
    bytes_per_token: dict[int, float] = {}
    """UTF-8 bytes of training text a token in the table, by vocabulary size."""
    residual_scale: float
    """Standard deviation of the residuals on the objective's scale, degrees of freedom allowed for."""
    convergence: Convergence
    bootstrap: BootstrapRecord
    data: DataRecord
    warnings: list[str]
    decisions: dict[str, dict[str, Any]] = {}
    draws: Draws

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, data: Any) -> Any:
        """A file without draws says nothing of their columns; one from before meanings has them found by the names."""
        if isinstance(data, dict) and isinstance(data.get("parameters"), dict) and isinstance(data.get("draws"), list):
            data = {**data, "draws": data["draws"] or np.empty((0, len(data["parameters"])))}
        variables = data.get("variables") if isinstance(data, dict) else None
        if not isinstance(variables, list) or not all(isinstance(each, dict) for each in variables):
            return data
        if all("means" in each or not {"name", "bound_to"} <= set(each) for each in variables):
            return data
        known = {law.name: law for law in list_laws()}.get(str(data.get("law")))
        declared = {each.name: each for each in known.variables} if known else {}
        found = []
        for each in variables:
            if "means" in each or not {"name", "bound_to"} <= set(each):
                found.append(each)
                continue
            variable = declared.get(each["name"], Variable(each["name"], each.get("meaning", "")))
            bound_to, largest = _as_expression(str(each["bound_to"])), each.get("high")
            largest = float(largest) if isinstance(largest, int | float) else None
            meaning = meaning_of(variable, bound_to, of=str(data.get("law")), largest=largest)
            found.append({**each, "bound_to": bound_to, "means": meaning.expression})
        older = "the law's file is of an earlier version, without what its runs shared (vocabulary, sequence length, "
        older += "routing); fit again to have that in a plan."
        warnings = data.get("warnings")
        notes = {"warnings": [*warnings, older]} if isinstance(warnings, list) and "constants" not in data else {}
        return {**data, "variables": found, **notes}

    @cached_property
    def as_law(self) -> Law:
        """The law that was fitted."""
        return Law(
            name=self.law,
            formula=self.formula,
            definitions=MappingProxyType(self.definitions),
            variables=tuple(Variable(each.name, each.meaning, each.bound_to) for each in self.variables),
            parameters=tuple(
                Parameter(each.name, each.meaning, each.domain)  # type: ignore[arg-type]
                for each in self.parameter_records
            ),
            response=self.response,
            unit=self.unit,
            source=self.source,
        )

    @property
    def values(self) -> dict[str, float]:
        """The coefficients alone."""
        return {name: estimate.value for name, estimate in self.parameters.items()}

    @property
    def bind(self) -> dict[str, str]:
        """What each variable was bound to."""
        return {variable.name: variable.bound_to for variable in self.variables}

    @property
    def means(self) -> dict[str, str]:
        """What variables mean to a plan, over ``fits.tables.meaning.PLAN_COLUMNS``; what none can know is left out."""
        return {each.name: each.means for each in self.variables if each.means is not None}

    def unit_of(self, variable: str) -> float:
        """What one of a variable's numbers counts: 1e9 for tokens in billions, 1 for most."""
        meaning = parse(self.means.get(variable) or "1")
        if len(names(meaning)) == 1 and names(meaning)[0] in COUNTS:
            one, two = (float(evaluate(meaning, {names(meaning)[0]: count})) for count in (1.0, 2.0))
            if one > 0 and two == 2 * one:  # a column times a number, however it is written
                return float(f"{1 / one:.12g}")
        return 1.0

    @property
    def held(self) -> dict[str, float]:
        """Variables that had one value on every row; predictions take it unless they are asked for another."""
        return {each.name: each.low for each in self.variables if each.low == each.high}

    def predict(self, **variables: Any) -> Any:
        """The law's value at these variables (numbers or arrays, by the law's names)."""
        value = self.as_law.evaluate(self.values, self.held | variables)
        return float(value) if np.ndim(value) == 0 else value

    def predict_draws(self, **variables: Any) -> np.ndarray:
        """The value under every draw: [B] or [B, ...the variables' broadcast shape]."""
        shape = np.broadcast_shapes(*(np.shape(value) for value in variables.values())) if variables else ()
        columns = {
            name: self.draws[:, index].reshape(-1, *([1] * len(shape))) for index, name in enumerate(self.parameters)
        }
        value = np.asarray(self.as_law.evaluate(columns, self.held | variables))
        return np.broadcast_to(value, (len(self.draws), *shape))

    def band(self, level: float | None = None, *, new_run: bool = False, **variables: Any) -> tuple[Any, Any]:
        """The interval of the prediction; ``new_run`` widens it by the residual scatter of a single run.

        Raises:
            UserError: the fit has no draws.
        """
        draws = self.predict_draws(**variables)
        if len(draws) < 2:
            raise UserError(f"The fit of '{self.law}' has no bootstrap draws; fit again with bootstrap=1000.")
        if new_run:
            noise = np.random.default_rng(self.bootstrap.seed).standard_normal(len(draws)) * self.residual_scale
            noise = noise.reshape(-1, *([1] * (draws.ndim - 1)))
            draws = draws * np.exp(noise) if self.objective.name.startswith("log-") else draws + noise
        low, high = interval(draws, self.level if level is None else level)
        return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)

    def extrapolation(self, **variables: Any) -> dict[str, float]:
        """Decades outside the fitted range: above 0 beyond its top, below 0 under its bottom, 0 inside.

        Takes the law's variables and, when the table had the column, ``train_flops``.
        """
        outside = {}
        for name, value in variables.items():
            if name not in self.ranges:
                raise UserError(f"The fit has no range of '{name}'; it has {', '.join(self.ranges)}.")
            low, high = self.ranges[name]
            value = float(value)
            if value > high and high > 0:
                outside[name] = float(np.log10(value / high))
            elif 0 < value < low:
                outside[name] = float(np.log10(value / low))
            else:
                outside[name] = 0.0 if low <= value <= high else float("nan")
        return outside

    def save(self, path: str | Path, *, heading: str = "") -> None:
        """Write law.json, each draw on one line; whole or not at all."""
        del heading  # JSON holds no comments
        text = json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False)
        text = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row.group(1)) + "]", text)
        write_text(path, text + "\n")

    def report(self) -> dict[str, Any]:
        """Everything but the draws, as plain data."""
        return self.model_dump(mode="json", exclude={"draws"})

    def _repr_html_(self) -> str:
        meaning = {each.name: each.meaning for each in self.parameter_records}
        proof = "converged" if self.convergence.converged else "not converged"
        return card(
            self.law,
            about=f"fitted to {self.n_runs} runs, {self.objective.name} {self.objective.value:.6g}, {proof}",
            code=f"{self.response} = {self.formula}",
            columns=["parameter", "value", f"{self.level:.0%} interval", "what it is"],
            rows=(
                [
                    name,
                    each.value,
                    f"{quantity(each.low)} to {quantity(each.high)}" if len(self.draws) else "none asked",
                    meaning.get(name, ""),
                ]
                for name, each in self.parameters.items()
            ),
            notes=self.warnings,
        )


def interval(draws: np.ndarray, level: float) -> tuple[Any, Any]:
    """The central percentile interval over the first axis."""
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail], axis=0)
    return low, high


def estimates(
    names: list[str], values: Mapping[str, float], draws: np.ndarray, level: float, how: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Estimates of parameters from their values and draws [B, p]; without draws the interval is the value."""
    result = {}
    for index, name in enumerate(names):
        value = float(values[name])
        low, high, error = value, value, 0.0
        if len(draws) > 1 and how[name] != "fixed":
            low, high = (float(each) for each in interval(draws[:, index], level))
            error = _standard_deviation(draws[:, index])
        result[name] = Estimate(value=value, low=low, high=high, standard_error=error, how=how[name])
    return result


def _standard_deviation(draws: np.ndarray) -> float:
    """In units of a power of two near the largest draw: a parameter that the runs leave free may be drawn at 1e200."""
    exponent = np.frexp(np.abs(draws).max())[1]
    return float(np.ldexp(np.ldexp(draws, -exponent).std(ddof=1), exponent))
