"""The run table: one row a training run. Its columns and rows, checked; expressions over it; the runs that are done."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fits.errors import UserError, nearest
from fits.laws.expression import Name, Node, as_written, evaluate, names, parse
from fits.tables.columns import BY_NAME, COLUMNS, Column
from fits.tables.files import read_table, row_numbers, write_table
from fits.tables.statuses import DONE, status_column, statuses

_MUST = {"positive": "must be above 0", "non-negative": "must be 0 or more", "fraction": "must be in (0, 1]"}
_NAMES = ("run_id", "run id", "name", "run_name", "run name", "display_name", "run", "id", "experiment")
"""Columns that tell a reader which run a row is, by preference; capitals do not matter."""


def run_names(frame: pd.DataFrame) -> list[str]:
    """What each run is called: its run_id, else its name; empty where the table has neither."""
    found = name_column(frame)
    return ["" if found is None or pd.isna(value) else str(value) for value in (frame[found] if found else frame.index)]


def name_column(frame: pd.DataFrame) -> str | None:
    """The column that says what each run is called, when there is one."""
    columns = {str(name).lower(): name for name in reversed(list(frame.columns))}
    return next((columns[name] for name in _NAMES if name in columns), None)


def expression_of(text: str, columns: Sequence[str] | pd.Index) -> Node:
    """What a binding says: the column of exactly that name, else an expression over columns.

    Raises:
        UserError: it is neither.
    """
    if text in columns:
        return Name(text)
    try:
        return parse(text)
    except UserError as error:
        hint = _quote_hint(text, columns) or nearest(text, map(str, columns))
        if not hint:
            raise
        raise UserError(f"'{text}' is no column and no expression over columns{hint}.") from error


def _quote_hint(text: str, columns: Sequence[str] | pd.Index) -> str:
    """Which column a text seems to mean whose name needs backquotes, as in ``train/loss * 2``."""
    inside = [str(name) for name in columns if str(name) in text and as_written(str(name)) != str(name)]
    return f"; write the column in backquotes, as {as_written(max(inside, key=len))}" if inside else ""


def column_values(frame: pd.DataFrame, text: str, *, source: str | Path = "table") -> np.ndarray:
    """A column, or an arithmetic expression over columns, as floats.

    Raises:
        UserError: a column is missing or holds text; names ``source``, the column, the row and the value.
    """
    node = expression_of(text, frame.columns)
    values: dict[str, np.ndarray] = {}
    for name in names(node):
        if name not in frame.columns:
            hint = _quote_hint(text, frame.columns) or nearest(name, map(str, frame.columns))
            raise UserError(
                f"{source}: there is no column '{name}'{hint}; its columns are {', '.join(map(str, frame.columns))}."
            )
        values[name] = _numbers(frame, name, source)
    return np.broadcast_to(np.asarray(evaluate(node, values), dtype=float), (len(frame),)).copy()


def _numbers(frame: pd.DataFrame, name: str, source: str | Path) -> np.ndarray:
    column = pd.Series(frame[name])
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise UserError(f"{source}: column '{name}' holds dates, such as {column.iloc[0]}; a law needs numbers.")
    numbers = pd.Series(pd.to_numeric(column, errors="coerce"))
    wrong = column.notna().to_numpy() & numbers.isna().to_numpy()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = str(column.iloc[row])
        mend = "write numbers with a decimal point and no commas" if "," in value else "correct or drop the row"
        raise UserError(
            f"{source} row {row_numbers(frame)[row]}: column '{name}' holds {value!r}, which is not a number; {mend}."
        )
    return numbers.to_numpy(dtype=float, na_value=np.nan)


def filter_rows(frame: pd.DataFrame, condition: str, *, source: str | Path = "table") -> pd.DataFrame:
    """The rows that meet a condition such as ``loss < 5 and optimizer == 'adamw'``; they keep their row numbers.

    A condition on the runs' status decides which of them count: the column of it is left out of what is returned, so
    that nobody filters by it again.

    Raises:
        UserError: the condition cannot be read, names a column that is missing, or leaves no row.
    """
    node = parse(condition, conditions=True)
    for name in names(node):
        if name not in frame.columns:
            hint = _quote_hint(condition, frame.columns) or nearest(name, map(str, frame.columns))
            raise UserError(
                f"{source}: the condition {condition!r} names '{name}', which is no column{hint}; "
                f"its columns are {', '.join(map(str, frame.columns))}."
            )
    values = {name: frame[name].to_numpy() for name in names(node)}
    keep = np.broadcast_to(np.asarray(evaluate(node, values)), (len(frame),))
    if keep.dtype != bool:
        raise UserError(f"The condition {condition!r} is a number, not a comparison; write it as in 'loss < 5'.")
    if not keep.any():
        raise UserError(f"{source}: no row meets {condition!r}; loosen the condition.")
    decided = [name for name in names(node) if name == status_column(frame)]
    return frame.loc[keep].drop(columns=decided)


def read_runs(
    path: str | Path, columns: Mapping[str, str] | None = None, required: Sequence[str] = ("loss",)
) -> pd.DataFrame:
    """Read and check a run table. Rows that are not done are kept; see ``usable_runs``.

    Args:
        path: .csv, .jsonl (both also .gz) or .parquet.
        columns: our name -> their column, or an expression over their columns, for other people's tables.
        required: columns that must be there, and filled in on every row that is done.

    Raises:
        UserError: names the file, the row (counted from 1), the column and the value at fault.
    """
    frame = read_table(path)
    for ours, theirs in (columns or {}).items():
        column = BY_NAME.get(ours)
        if column is not None and column.kind == "text":
            if theirs not in frame.columns:
                raise UserError(f"{path}: there is no column '{theirs}'{nearest(theirs, frame.columns)} for '{ours}'.")
            frame[ours] = frame[theirs]
        else:
            values = column_values(frame, theirs, source=path)
            frame[ours] = np.round(values) if column is not None and column.kind == "count" else values
    for name in required:
        if name not in frame.columns:
            raise UserError(
                f"{path}: column '{name}' is missing{nearest(name, frame.columns)}; add it or map another column to it."
            )
    for column in COLUMNS:
        if column.name in frame.columns:
            frame[column.name] = _checked(frame, column, path)
    done = _done(frame, path)
    for name in required:
        empty = frame[name].isna().to_numpy() & done
        if empty.any():
            row = int(np.flatnonzero(empty)[0]) + 1
            raise UserError(
                f"{path} row {row}: column '{name}' is NaN or empty on a run that is done; fill or drop it."
            )
    return frame


def _checked(frame: pd.DataFrame, column: Column, path: str | Path) -> pd.Series:
    if column.kind == "text":
        return pd.Series(frame[column.name])
    values = _numbers(frame, column.name, path)
    bad = np.isinf(values)
    if column.domain == "positive":
        bad |= values <= 0
    elif column.domain == "non-negative":
        bad |= values < 0
    elif column.domain == "fraction":
        bad |= (values <= 0) | (values > 1)
    must = _MUST.get(column.domain, "must be finite")
    if column.kind == "count":
        fractional = np.isfinite(values) & (values != np.round(values))
        if fractional.any() and not bad.any():
            must = "must be a whole number"
        bad |= fractional
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{path} row {row + 1}: column '{column.name}' is {values[row]:g}; it {must}; correct or drop the row."
        )
    if column.kind == "count" and np.isfinite(values).all() and (np.abs(values) < 2**62).all():
        return pd.Series(values.astype(np.int64), index=frame.index)
    return pd.Series(values, index=frame.index)


def usable_runs(frame: pd.DataFrame, *, source: str | Path = "table") -> tuple[pd.DataFrame, str]:
    """The rows that are done, which keep their row numbers, and a sentence that says what was left out (empty when
    nothing was). The usual words of loggers are known (``fits.tables.statuses``); without a status all are done.

    Raises:
        UserError: no run is done, or a status is no known word.
    """
    done = _done(frame, source)
    if done.all():
        return frame, ""
    words = frame.loc[~done, status_column(frame)].fillna("without a status").value_counts()
    left_out = ", ".join(f"{count} {word}" for word, count in words.items())
    if not done.any():
        column = as_written(str(status_column(frame)))
        raise UserError(
            f"{source}: no run is done ({left_out}); finish some, or, if these are good in spite of it, keep them with "
            f"a condition on their status, such as --where \"{column} != 'queued'\"."
        )
    return frame.loc[done], f"left out: {left_out}"


def _done(frame: pd.DataFrame, source: str | Path) -> np.ndarray:
    found = statuses(frame, source)
    return np.ones(len(frame), dtype=bool) if found is None else (found == DONE).to_numpy()


def write_runs(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a run table by its ending, known columns first and in order; whole or not at all."""
    known = [column.name for column in COLUMNS if column.name in frame.columns]
    frame = frame.reindex(columns=known + [name for name in frame.columns if name not in known])
    for name in known:
        if BY_NAME[name].kind == "count":
            frame[name] = frame[name].astype("Int64")  # a whole number stays one beside missing values
    write_table(frame, path)
