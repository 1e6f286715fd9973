"""A law's variables, the loss, weights and clusters, taken from a table of runs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fits.derivatives import differentiate
from fits.errors import UserError, nearest
from fits.expression import Node, names, parse
from fits.law import Law, Parameter, Variable
from fits.runs import column_values, usable_runs


@dataclass(frozen=True)
class Bound:
    """A law's inputs taken from a table: each variable's column, the loss, the weights and the clusters."""

    variables: dict[str, np.ndarray]
    bound_to: dict[str, str]
    loss: np.ndarray
    loss_from: str
    weights: np.ndarray
    clusters: np.ndarray | None
    ranges: dict[str, tuple[float, float]]
    notes: list[str]

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
    notes = []
    if "status" in frame.columns:
        frame, note = usable_runs(frame)
        notes += [f"Rows not done were {note}."] if note else []
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
        text = chosen.get(variable.name) or variable.column or variable.name
        if text not in frame.columns and variable.name not in chosen and variable.name in frame.columns:
            text = variable.name
        if variable.name not in chosen and text not in frame.columns:
            _require_columns(law, variable, text, frame, where)
        variables[variable.name] = column_values(frame, text, source=where)
        bound_to[variable.name] = text
    values = column_values(frame, loss_from, source=where)
    for name, column in (*variables.items(), ("loss", values)):
        bad = ~np.isfinite(column)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            text = loss_from if name == "loss" else bound_to[name]
            raise UserError(f"{where} row {row + 1}: {name} ({text}) is {column[row]}; correct or drop the row.")
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
    if "train_flops" in frame.columns and "train_flops" not in ranges:
        flops = column_values(frame, "train_flops", source=where)
        if np.isfinite(flops).all():
            ranges["train_flops"] = (float(flops.min()), float(flops.max()))
    return Bound(variables, bound_to, values, loss_from, weight, clusters, ranges, notes)


def _require_columns(law: Law, variable: Variable, text: str, frame: pd.DataFrame, where: str | Path) -> None:
    for name in names(parse(text)):
        if name not in frame.columns:
            raise UserError(
                f"{where}: there is no column '{name}'{nearest(name, map(str, frame.columns))}, and law '{law.name}' "
                f"needs {variable.name} ({variable.meaning}); bind {variable.name} to a column or expression."
            )


def _refuse_duplicates(frame: pd.DataFrame, where: str | Path) -> None:
    """Two rows alike in every column are one run entered twice: it would count double and narrow every interval."""
    again = frame.duplicated().to_numpy()
    if again.any():
        row = int(np.flatnonzero(again)[0])
        first = int(np.flatnonzero(frame.iloc[: row + 1].duplicated(keep="last").to_numpy())[0])
        raise UserError(
            f"{where} row {row + 1} repeats row {first + 1} in every column; drop it, or keep duplicates on purpose."
        )


def check_rows(law: Law, bound: Bound, node: Node, free: list[Parameter], in_logs: bool, where: str | Path) -> None:
    """Refuse what no fit can be made of.

    Raises:
        UserError: fewer runs than parameters, a loss without a logarithm, one loss on every row, or a variable that
            never changes though the law needs it to.
    """
    count = len(bound.loss)
    if count < len(free):
        raise UserError(
            f"{where} has {count} runs for the {len(free)} free parameters of '{law.name}'; "
            "add runs, fix or tie parameters, or choose a smaller law."
        )
    if in_logs and (bound.loss <= 0).any():
        row = int(np.flatnonzero(bound.loss <= 0)[0])
        raise UserError(
            f"{where} row {row + 1}: {bound.loss_from} is {bound.loss[row]:g}, which has no logarithm; "
            "correct the row or choose an objective without log-."
        )
    _refuse_negative(law, bound, where)
    if (bound.loss == bound.loss[0]).all():
        raise UserError(f"{where}: {bound.loss_from} is {bound.loss[0]:g} on every row; there is nothing to fit.")
    for name, column in bound.variables.items():
        if len(column) > 1 and (column == column[0]).all() and _needed(bound, node, free, name):
            raise UserError(
                f"{where}: {name} ({bound.bound_to[name]}) is {column[0]:g} on every row, so '{law.name}' cannot tell "
                f"its parameters apart; add runs at other {name}, or fix parameters."
            )


def _refuse_negative(law: Law, bound: Bound, where: str | Path) -> None:
    """Sizes, tokens, FLOPs and ratios of a law of ours are not negative, and only a sparsity may be 0."""
    if law.source == "given":  # a user's own formula may take any number
        return
    for variable in law.variables:
        column = bound.variables[variable.name]
        wrong = column < 0 if variable.name == "S" else column <= 0
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{where} row {row + 1}: {bound.bound_to[variable.name]} is {column[row]:g}, but {variable.name} "
                f"({variable.meaning}) must be above 0; correct or drop the row."
            )


def _needed(bound: Bound, node: Node, free: list[Parameter], name: str) -> bool:
    """Whether the free parameters cannot all be told apart with this variable held still, wherever they are."""
    rng = np.random.default_rng(0)
    names = [parameter.name for parameter in free]
    chosen = rng.choice(len(bound.loss), min(len(bound.loss), 200), replace=False)
    values: dict[str, Any] = {each: column[chosen] for each, column in bound.variables.items()}
    for parameter in free:
        low, high = parameter.typical
        values[parameter.name] = np.array([[low + (high - low) * rng.random()]])
    moved = dict(values)
    moved[name] = values[name] * np.exp(0.5 * rng.standard_normal(len(chosen)))
    return _rank(node, values, names) < _rank(node, moved, names)


def _rank(node: Node, values: dict[str, Any], names: list[str]) -> int:
    jet = differentiate(node, values, names)
    shape = np.shape(next(iter(values.values())))
    jacobian = np.stack([np.broadcast_to(jet.first.get(i, 0.0), (1, *shape))[0] for i in range(len(names))], axis=1)
    scale = np.linalg.norm(jacobian, axis=0)
    if not (np.isfinite(scale) & (scale > 0)).all():
        return 0
    return int(np.linalg.matrix_rank(jacobian / scale, tol=1e-9))
