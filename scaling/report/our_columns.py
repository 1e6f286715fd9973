"""Somebody else's run table in our columns, as far as a law's record and the names of their columns say."""

import pandas as pd

from fits.fitting.result import Fit
from fits.laws.expression import as_written, names
from fits.tables.column_words import scale_of
from fits.tables.columns import BY_NAME
from fits.tables.loss_units import UNITS
from fits.tables.meaning import recognised
from fits.tables.runs import expression_of, name_column


def our_columns(frame: pd.DataFrame, law: Fit | None) -> dict[str, str]:
    """Our column -> theirs, or an expression over theirs, of what the table does not have under our names.

    Args:
        law: fitted to the table; what it was bound to says most.
    """
    found: dict[str, str] = {}
    for each in law.variables if law else ():
        unit = 1.0 if law is None else law.unit_of(each.name)
        if each.means and (name := each.means.partition("/")[0]) in BY_NAME and (name == each.means or unit != 1):
            found[name] = each.bound_to if unit == 1 else f"({each.bound_to})*{unit!r}"
    if law:
        response = next((name for name, unit in UNITS.items() if unit == law.unit), law.response)
        found[response] = law.data.loss
    for column in map(str, frame.columns):
        means = recognised(column)
        if len(means) == 1 and means[0] not in found:
            unit = scale_of(column)
            found[means[0]] = as_written(column) + (
                f"*{unit}" if unit and means[0] in ("tokens", "train_bytes") else ""
            )
    for name, value in (law.constants if law else {}).items():
        found.setdefault(name, repr(value))
    named = name_column(frame)
    if named:
        found["run_id"] = named
    return {
        ours: theirs
        for ours, theirs in found.items()
        if ours in BY_NAME
        and ours not in frame.columns
        and set(names(expression_of(theirs, frame.columns))) <= set(frame.columns)
    }
