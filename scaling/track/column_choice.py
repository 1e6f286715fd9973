"""Which column of a log is the loss, and which the run's progress."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fits.errors import UserError, nearest
from scaling.plan import TrainingPlan
from scaling.track.cells import Cells, cells_of
from scaling.track.columns import (
    LossColumn,
    Progress,
    as_loss,
    as_progress,
    is_rate,
    loss_columns,
    metric_of,
    progress_columns,
)
from scaling.track.units import preference

_COVERED = 0.9
"""Of the rows that the fullest column of progress numbers: a better column may leave out the others."""


@dataclass(frozen=True)
class Loss:
    """The column that is taken for the loss, n rows."""

    column: LossColumn
    cells: Cells
    here: np.ndarray
    """Rows that log this loss [n]."""
    is_validation: bool
    notes: tuple[str, ...] = ()


def choose_loss(table: pd.DataFrame, wanted: str | None, plan: TrainingPlan, path: str | Path) -> Loss:
    """The loss: in the plan's unit before another, of validation before training, pure before a total.

    Args:
        table: n rows of cells.
        wanted: the column, where the user names it.
        plan: gives the unit.
        path: of the log, for messages, and for the metric of a table that TensorBoard wrote.

    Raises:
        UserError: no such column, none that is a loss by its name, or the same metric of several runs.
    """
    tag = re.search(r"tag-(.+)", Path(path).stem)
    known = loss_columns(table.columns, tag=tag[1] if tag else None)
    cells = {column.name: cells_of(column.name, table[column.name]) for column in known}
    known = [column for column in known if not cells[column.name].blank.all()]
    if wanted is not None:
        column = as_loss(_named(table, wanted, path))
        return _loss(column, cells_of(column.name, table[column.name]), known, cells)
    losses = [_loss(column, cells[column.name], known, cells) for column in known]
    if not losses:
        raise _unknown(table, ("loss", "val_loss", "lm loss", "bits_per_byte"), path, "--loss-column")
    ranks = [(preference(loss.column.unit, plan), not loss.is_validation, loss.column.purity) for loss in losses]
    best = [loss for loss, rank in zip(losses, ranks, strict=True) if rank == min(ranks)]
    metrics = [metric_of(loss.column.name).lower() for loss in best]
    again = [name for name, count in Counter(metrics).items() if count > 1]
    if again:
        twins = [f"'{loss.column.name}'" for loss, name in zip(best, metrics, strict=True) if name == again[0]]
        raise UserError(f"{path}: columns {', '.join(twins)} are the same metric; give one with --loss-column.")
    taken = max(best, key=lambda loss: int(loss.here.sum()))
    others = ", ".join(f"'{loss.column.name}'" for loss in best if loss is not taken)
    notes = (f"{others} may be the loss as well; --loss-column takes another",) if others else ()
    return Loss(taken.column, taken.cells, taken.here, taken.is_validation, notes)


def _loss(column: LossColumn, mine: Cells, known: list[LossColumn], cells: dict[str, Cells]) -> Loss:
    # Our trainer's bits_per_byte stands on the rows of its validation_loss.
    beside = [cells[other.name].blank for other in known if other.is_validation]
    unsaid = column.unit is not None and not column.is_training
    is_validation = column.is_validation or (unsaid and any((mine.blank | ~blank).all() for blank in beside))
    # A nan where the other kind of loss is a number is how some tables leave a cell blank.
    elsewhere = [cells[other.name].finite for other in known if other.is_validation != is_validation]
    blank = mine.blank | (mine.nan & np.any(elsewhere, axis=0)) if elsewhere else mine.blank
    return Loss(column, mine, ~blank, is_validation)


def choose_progress(
    table: pd.DataFrame, wanted: str | None, here: np.ndarray, path: str | Path
) -> tuple[Progress, Cells]:
    """What counts the run's progress: tokens before steps before samples, if it is there on the rows of the loss.

    Args:
        table: n rows of cells.
        wanted: the column, where the user names it.
        here: rows of the loss [n].
        path: of the log, for messages.

    Raises:
        UserError: no such column, none by its name, or one that does not grow.
    """
    if wanted is not None:
        progress = as_progress(_named(table, wanted, path))
        if is_rate(progress):
            raise UserError(
                f"{path}: column '{progress.name}' is a rate or a size by its name; give what was counted since the "
                "start, as steps or tokens, with --step-column."
            )
        found = [(progress, cells_of(progress.name, table[progress.name]))]
    else:
        known = progress_columns(table.columns)
        found = [(column, cells_of(column.name, table[column.name])) for column in known]
        if not found:
            raise _unknown(table, ("tokens", "consumed_tokens", "step", "consumed_samples"), path, "--step-column")
    grown = [(progress, cells) for progress, cells in found if not _is_constant(cells.values[here])]
    if not grown:
        progress, cells = found[0]
        raise UserError(
            f"{path}: column '{progress.name}' is {cells.first(here & cells.finite)} and in all others, so it does "
            "not count the run's progress; give another with --step-column."
        )
    clock = next((cells for progress, cells in grown if progress.kind == "steps"), None)
    able = [pair for pair in grown if clock is None or not _falls(pair[1], clock, here)] or grown
    covered = [int(cells.finite[here].sum()) for _, cells in able]
    return next(pair for pair, rows in zip(able, covered, strict=True) if rows >= _COVERED * max(covered))


def _is_constant(values: np.ndarray) -> bool:
    numbers = values[np.isfinite(values)]
    return len(numbers) > 1 and bool((numbers == numbers[0]).all())


def _falls(cells: Cells, clock: Cells, here: np.ndarray) -> bool:
    """Whether the numbers go down while the steps go up: tokens of a batch, not of the run."""
    rows = here & cells.finite & clock.finite
    changes = np.diff(cells.values[rows][np.argsort(clock.values[rows], kind="stable")])
    return int((changes < 0).sum()) > len(changes) / 20


def _named(table: pd.DataFrame, wanted: str, path: str | Path) -> str:
    names = list(map(str, table.columns))
    nested = wanted.replace("/", ".")  # a nested JSON object's
    if wanted not in names and nested not in names:
        raise UserError(f"{path}: no column '{wanted}'{nearest(wanted, names)}; it has {', '.join(names)}.")
    return wanted if wanted in names else nested


def _unknown(table: pd.DataFrame, usual: tuple[str, ...], path: str | Path, option: str) -> UserError:
    shown = ", ".join(map(str, table.columns)) or "none"
    return UserError(f"{path}: no column of the usual names ({', '.join(usual)}, ...); it has {shown}; give {option}.")
