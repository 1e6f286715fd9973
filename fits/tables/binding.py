"""A law's variables, the loss, weights and clusters, taken from a table of runs."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fits.errors import UserError, nearest
from fits.laws.expression import Number, as_written, names, parse, simplified, substitute
from fits.laws.law import Law, Variable
from fits.tables.files import row_numbers
from fits.tables.meaning import Meaning, given_meaning, meaning_of, recognised
from fits.tables.runs import column_values, run_names, usable_runs
from fits.tables.settings import Settings, settings_of

_FLOPS = 1e12
"""No training run takes fewer; smaller numbers are of another unit."""
_TOKENS_PER_PARAMETER = 0.1, 1e5
"""What runs see, by the median of a table; outside, sizes and tokens are in different units."""


@dataclass(frozen=True)
class Bound:
    """A law's inputs taken from a table: each variable's column, the loss, the weights and the clusters."""

    variables: dict[str, np.ndarray]
    bound_to: dict[str, str]
    """Expressions over the table's columns."""
    loss: np.ndarray
    loss_from: str
    weights: np.ndarray
    clusters: np.ndarray | None
    ranges: dict[str, tuple[float, float]]
    notes: list[str]
    rows: np.ndarray
    """Rows of the file, from 1."""
    runs: list[str]
    """What each run is called; empty where the table does not say."""
    frame: pd.DataFrame
    """The rows that were taken."""

    def digest(self) -> str:
        """sha256 over variables, loss and weights, in order, as little-endian 64-bit floats."""
        digest = hashlib.sha256()
        for column in (*self.variables.values(), self.loss, self.weights):
            digest.update(np.ascontiguousarray(column, dtype="<f8").tobytes())
        return digest.hexdigest()


def bind_table(
    law: Law,
    data: pd.DataFrame | Mapping[str, Any],
    *,
    loss: str | None = None,
    bind: Mapping[str, str] | None = None,
    weights: str | np.ndarray | None = None,
    cluster: str | np.ndarray | None = None,
    duplicates: Literal["refuse", "keep"] = "refuse",
    source: str | Path | None = None,
) -> Bound:
    """Take a law's variables and the loss from a table.

    Raises:
        UserError: a bind names an unknown variable or column, or a value is missing or infinite.
    """
    where = source or "table"
    frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame(dict(data))
    again = frame.columns[frame.columns.duplicated()]
    if len(again):
        raise UserError(f"{where}: two columns are named '{again[0]}'; rename one of them.")
    usable, note = usable_runs(frame, source=where)
    weights, cluster = (_of_rows(values, frame, usable) for values in (weights, cluster))
    frame, notes = usable, [f"Rows not done were {note}."] if note else []
    if duplicates == "refuse":
        _refuse_duplicates(frame, where)
    chosen = dict(bind or {})
    loss_from = loss or chosen.pop("loss", None) or law.response_column
    chosen.pop("loss", None)
    for name in chosen:
        if name not in law.variable_names:
            hint = nearest(name, law.variable_names)
            raise UserError(f"Law '{law.name}' has no variable '{name}'{hint}; bind {', '.join(law.variable_names)}.")
    variables, bound_to = {}, {}
    for variable in law.variables:
        text = chosen.get(variable.name) or _default(law, variable, frame, where)
        variables[variable.name] = column_values(frame, text, source=where)
        bound_to[variable.name] = _as_expression(text, frame)
    values = column_values(frame, loss_from, source=where)
    loss_from = _as_expression(loss_from, frame)
    rows = row_numbers(frame)
    for name, column in (*variables.items(), ("loss", values)):
        bad = ~np.isfinite(column)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            text = loss_from if name == "loss" else bound_to[name]
            raise UserError(f"{where} row {rows[row]}: {name} ({text}) is {column[row]}; correct or drop the row.")
    weight = np.ones(len(values))
    if weights is not None:
        weight = column_values(frame, weights, source=where) if isinstance(weights, str) else np.asarray(weights, float)
        if weight.shape != values.shape or not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
            raise UserError("Weights must be one finite number of 0 or more a row, not all 0.")
    clusters = None
    if cluster is not None:
        if isinstance(cluster, str) and cluster not in frame.columns:
            raise UserError(f"{where}: there is no column '{cluster}'{nearest(cluster, frame.columns)} to cluster by.")
        clusters = np.asarray(frame[cluster] if isinstance(cluster, str) else cluster).astype(str)
        if len(np.unique(clusters)) < 3:
            raise UserError(f"There are {len(np.unique(clusters))} clusters; resampling whole clusters needs 3.")
    ranges = {name: (float(column.min()), float(column.max())) for name, column in variables.items()}
    ranges["loss"] = (float(values.min()), float(values.max()))
    flops = flops_column(frame)
    if flops is not None and "train_flops" not in ranges:
        spent = column_values(frame, as_written(flops), source=where)
        if np.isfinite(spent).all():
            ranges["train_flops"] = (float(spent.min()), float(spent.max()))
    return Bound(variables, bound_to, values, loss_from, weight, clusters, ranges, notes, rows, run_names(frame), frame)


def flops_column(frame: pd.DataFrame) -> str | None:
    """The column of each run's training FLOPs: ours, or the one whose name says so and whose numbers can be FLOPs."""
    if "train_flops" in frame.columns:
        return "train_flops"
    named = [name for name in map(str, frame.columns) if recognised(name) == ["train_flops"]]
    numeric = [
        name
        for name in named
        if pd.api.types.is_numeric_dtype(frame[name]) and column_values(frame, as_written(name)).max() > _FLOPS
    ]
    return numeric[0] if len(numeric) == 1 else None


def _of_rows(values: str | np.ndarray | None, frame: pd.DataFrame, usable: pd.DataFrame) -> str | np.ndarray | None:
    """An array with a value for every row of the table, cut to the rows that are used."""
    if isinstance(values, np.ndarray) and len(values) == len(frame):
        return values[frame.index.isin(usable.index)]
    return values


def _default(law: Law, variable: Variable, frame: pd.DataFrame, where: str | Path) -> str:
    """What a variable is bound to when the user does not say: our own column, or one of the variable's name."""
    text = variable.column or variable.name
    if text not in frame.columns and variable.name in frame.columns:
        return as_written(variable.name)
    for name in names(parse(text)):
        if name not in frame.columns:
            theirs = [f" (did you mean '{each}'?)" for each in map(str, frame.columns) if name in recognised(each)]
            hint = theirs[0] if theirs else nearest(name, map(str, frame.columns))
            raise UserError(
                f"{where}: there is no column '{name}'{hint}, and law '{law.name}' needs {variable.name} "
                f"({variable.meaning}); bind {variable.name} to a column or expression."
            )
    return text


def _as_expression(text: str, frame: pd.DataFrame) -> str:
    """What was bound, so that it can be read without the table: a column's name in backquotes where it needs them."""
    return as_written(text) if text in frame.columns else text


def without_effect(law: Law, fix: Mapping[str, float], bind: Mapping[str, str], columns: pd.Index) -> dict[str, str]:
    """Binds of the variables that no longer matter once parameters are fixed (``G`` in ``G**0``) and that the table
    lacks: any constant does."""
    left = names(simplified(substitute(law.expression, {name: Number(float(value)) for name, value in fix.items()})))
    return {
        each.name: "1"
        for each in law.variables
        if each.name not in left and each.name not in bind and each.name not in columns and each.column not in columns
    }


def meanings_of(law: Law, bound: Bound, given: Mapping[str, str], idle: Collection[str]) -> dict[str, Meaning]:
    """What each variable means to a plan: as the user says, or by the law's declaration and the columns' names.

    Args:
        idle: variables ``without_effect``; the constant that stands for one of them means nothing.

    Raises:
        UserError: a meaning is given for what is no variable, or names what no plan knows.
    """
    for name in given:
        if name not in law.variable_names:
            known = ", ".join(law.variable_names)
            raise UserError(f"--means {name}: law '{law.name}' has no such variable; it has {known}.")
    found = {}
    for each in law.variables:
        text = bound.bound_to[each.name]
        if each.name in given:
            largest = float(bound.variables[each.name].max())
            found[each.name] = given_meaning(each.name, given[each.name], largest)
        elif each.name in idle:
            found[each.name] = Meaning(text, each.meaning)
        else:
            largest = float(bound.variables[each.name].max())
            found[each.name] = meaning_of(each, text, of=law.name, largest=largest)
    return found | _other_unit(bound, found)


def _other_unit(bound: Bound, meanings: Mapping[str, Meaning]) -> dict[str, Meaning]:
    """Tokens that cannot be in the unit they are taken in, beside the sizes: nobody can plan by them."""
    counts = {}
    for name, each in meanings.items():
        column, _, unit = (each.expression or "").partition("/")
        if not unit or unit.replace("e", "").isdigit():
            counts[column] = name, bound.variables[name] * float(unit or 1)
    sizes = [values for column, (_, values) in counts.items() if column.startswith("params_")]
    if "tokens" not in counts or not sizes:
        return {}
    name, tokens = counts["tokens"]
    ratio = float(np.median(tokens / sizes[0]))
    if _TOKENS_PER_PARAMETER[0] <= ratio <= _TOKENS_PER_PARAMETER[1]:
        return {}
    question = (
        f"with {name} (bound to {bound.bound_to[name]}) taken as {meanings[name].expression}, the runs saw {ratio:.2g} "
        f"tokens a parameter, which no runs do: until the right unit is said, as in --means {name}=tokens/1e6 for "
        "millions, 'scaling plan' cannot use this law."
    )
    return {name: Meaning(None, meanings[name].text, question)}


def shared_settings(bound: Bound, meanings: Mapping[str, Meaning]) -> Settings:
    """What the fitted runs share besides the variables."""
    known = {each.expression: bound.variables[name] for name, each in meanings.items() if each.expression}
    return settings_of(bound.frame, known)


def _refuse_duplicates(frame: pd.DataFrame, where: str | Path) -> None:
    """Two rows alike in every column are one run entered twice: it would count double and narrow every interval."""
    again = frame.duplicated().to_numpy()
    if again.any():
        rows = row_numbers(frame)
        row = int(np.flatnonzero(again)[0])
        first = int(np.flatnonzero(frame.iloc[: row + 1].duplicated(keep="last").to_numpy())[0])
        raise UserError(
            f"{where} row {rows[row]} repeats row {rows[first]} in every column; drop it, or keep duplicates "
            "on purpose (--keep-duplicates)."
        )
