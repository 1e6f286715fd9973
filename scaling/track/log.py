"""The log of a big run: rows of steps, samples or tokens against loss, as trackers and training stacks write them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fits.errors import UserError
from fits.files import read_text
from fits.tables.files import csv_cells, json_rows
from scaling.plan import TrainingPlan
from scaling.track.cells import Cells
from scaling.track.column_choice import choose_loss, choose_progress
from scaling.track.columns import Progress, words_of

_DECAYED = {("decayed",), ("annealed",)}
_YES, _NO = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no", "none", "null", "nan"}
_SCALES = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
_BEYOND = 1.05
"""Of the plan's tokens: steps or samples that come to more are of another kind or batch."""


@dataclass(frozen=True)
class Log:
    """What a log says, in order of tokens; each step once."""

    tokens: np.ndarray
    loss: np.ndarray
    """As logged; ``compare`` brings it into the plan's unit."""
    decayed: np.ndarray
    """Whether a row is the loss of a branch that was decayed to its end, not of the trunk."""
    notes: tuple[str, ...]
    """What was done to the rows, in sentences."""
    ends_in_nan: bool
    is_validation: bool
    unit: str | None = None
    """Of the loss, as its column's name says; None where it says nothing."""
    source: str = "the log's loss"
    """File and column of the loss, for messages."""


def read_log(
    path: str | Path,
    plan: TrainingPlan,
    *,
    step_column: str | None = None,
    loss_column: str | None = None,
) -> Log:
    """Read a CSV or JSON-lines log.

    Columns are known by the words of their names: tokens, steps or samples since the start, and losses with their
    unit. A loss in the plan's unit is taken before one in another, and a validation loss before a training loss. Of
    rows with the same step the last in the file counts; where the steps go back once (a restart), all rows of the
    abandoned stretch are dropped. Rows that are dropped are counted in notes.

    Args:
        path: ``.csv``, ``.jsonl`` or ``.json`` (one object a line).
        plan: gives the tokens of a step, and the unit.
        step_column: of steps, tokens or samples, where its name is none of the usual ones.
        loss_column: where its name is none of the usual ones.

    Raises:
        UserError: no such file or column; columns or numbers that can be read in two ways; a run beyond the plan's
            tokens; no row with numbers.
    """
    table = _table(path)
    chosen = choose_loss(table, loss_column, plan, path)
    loss = chosen.cells
    progress, position = choose_progress(table, step_column, chosen.here, path)
    loss.refuse_decimal_commas(path, grouped=False)
    position.refuse_decimal_commas(path, grouped=progress.scale == 1)
    decayed = _decayed(table, path)
    notes = [
        f"loss is column '{loss.name}', position column '{progress.name}' ({progress.kind})",
        *chosen.notes,
        *_readings(progress, position),
        *_left_out(chosen.here, loss, position),
    ]
    readable = np.flatnonzero(chosen.here & position.finite & ~loss.wrong)
    kept, changed = _each_once(position.values[readable], decayed[readable])
    rows = readable[kept]
    good = loss.finite[rows] & (loss.values[rows] > 0)
    if not good.any():
        raise UserError(
            f"{path}: no row has both a number in '{position.name}' and one in '{loss.name}'; name the columns."
        )
    if (position.values[rows] < 0).any():
        lowest = position.values[rows].min()
        raise UserError(f"{path}: column '{position.name}' has {lowest:g}; it must not be negative.")
    if not good.all():
        last = position.values[rows[~good][-1]]
        notes.append(f"{int((~good).sum())} rows without a finite loss above 0 left out, the last at {last:g}")
    tokens = _tokens(position.values[rows[good]] * progress.scale, progress.kind, plan)
    _check_reach(path, progress, position.values[rows[good]], tokens, plan)
    return Log(
        tokens=tokens,
        loss=loss.values[rows[good]],
        decayed=decayed[rows[good]],
        notes=(*notes, *changed),
        ends_in_nan=not loss.finite[rows[-1]],
        is_validation=chosen.is_validation,
        unit=chosen.column.unit,
        source=f"{path}: column '{loss.name}'",
    )


def _table(path: str | Path) -> pd.DataFrame:
    """Cells as they are written, "" where a line has none."""
    text = read_text(path).removeprefix("\ufeff")
    if Path(path).suffix.lower() in (".jsonl", ".json", ".ndjson"):
        rows = list(json_rows(text, path))
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name, "") for row in rows] for name in names}
    else:
        try:
            columns = csv_cells(text, path, skip_spaces=True)
        except csv.Error as error:
            raise UserError(f"{path}: not a table ({error}); mend the file.") from None
    table = pd.DataFrame(columns, dtype=object)
    if table.empty:
        raise UserError(f"{path}: not a table with rows; give a log that has some.")
    return table


def _readings(progress: Progress, position: Cells) -> Iterator[str]:
    """How numbers of the position were read that are not what is written."""
    if progress.scale != 1:
        yield f"'{progress.name}' counts {_SCALES[progress.scale]} of {progress.kind} by its name"
    if position.grouped.any():
        many, first = int(position.grouped.sum()), position.first(position.grouped)
        yield f"{many} numbers of '{position.name}' are read without their separators, the first {first}"


def _left_out(here: np.ndarray, loss: Cells, position: Cells) -> Iterator[str]:
    """Rows that hold no pair of numbers, by the reason."""
    unplaced, unread = here & ~position.finite, here & position.finite & loss.wrong
    if not here.all():
        yield f"{int((~here).sum())} rows of other metrics (no '{loss.name}') left out"
    if unplaced.any():
        first = position.first(unplaced)
        yield f"{int(unplaced.sum())} rows whose '{position.name}' is blank or no number left out, the first {first}"
    if unread.any():
        yield f"{int(unread.sum())} rows whose '{loss.name}' is no number left out, the first {loss.first(unread)}"


def _decayed(table: pd.DataFrame, path: str | Path) -> np.ndarray:
    """Rows of decayed branches [n], by the column that says so, if there is one."""
    name = next((name for name in table.columns if words_of(name) in _DECAYED), None)
    if name is None:
        return np.zeros(len(table), bool)
    cells = ["" if cell is None else str(cell).strip().lower() for cell in table[name]]
    for row, cell in enumerate(cells, 1):
        if cell not in _YES | _NO:
            raise UserError(f"{path} row {row}: column '{name}' holds '{cell}'; it must be 1 or 0.")
    return np.array([cell in _YES for cell in cells], bool)


def _check_reach(
    path: str | Path, progress: Progress, position: np.ndarray, tokens: np.ndarray, plan: TrainingPlan
) -> None:
    """Stop where the numbers cannot be what the column was taken for."""
    # Tokens that are called so may go on beyond the plan; the plan's batch says nothing of them.
    sure = progress.kind == "tokens" and progress.scale == 1
    reached = tokens.min() if sure else tokens.max()
    taken = f"{path}: column '{progress.name}' reaches {position.max():.15g}, and read as {progress.kind}"
    if reached > _BEYOND * plan.tokens:
        raise UserError(
            f"{taken} that is {tokens.max():.4g} tokens where the plan ends at {plan.tokens:.4g}; give a column of "
            "tokens, samples or optimizer steps, named so, with --step-column."
        )
    batch = plan.batch_ramp.start_batch_tokens if plan.batch_ramp else plan.batch_tokens
    if 0 < tokens.max() < batch:
        raise UserError(
            f"{taken} that is {tokens.max():.4g} tokens, less than a batch of {batch:.4g}; name the column with its "
            "unit, as in 'tokens_b' for billions, or give another with --step-column."
        )


def _each_once(position: np.ndarray, decayed: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The rows to keep, in order of the position, and what was dropped."""
    rows = np.arange(len(position))
    notes: list[str] = []
    back = np.flatnonzero((np.diff(position) < 0) & ~decayed[1:] & ~decayed[:-1]) + 1
    if len(back) and len(back) <= max(1, len(rows) // 20):
        dropped = np.zeros(len(rows), bool)
        for row in back:
            dropped[:row] |= (position[:row] >= position[row]) & ~decayed[:row]
        notes.append(f"{len(back)} restart(s): {int(dropped.sum())} rows of abandoned stretches left out")
        rows = rows[~dropped]
    elif len(back):
        notes.append("rows were not in order of steps and were sorted")
    keys: Sequence[tuple[float, bool]] = list(zip(position[rows], decayed[rows], strict=True))
    last = {key: row for key, row in zip(keys, rows, strict=True)}
    if len(last) < len(rows):
        notes.append(f"{len(rows) - len(last)} rows with a repeated step left out, the later row counts")
    each = np.array(list(last.values()), dtype=int)
    return each[np.lexsort((each, position[each]))], notes


def _tokens(position: np.ndarray, kind: str, plan: TrainingPlan) -> np.ndarray:
    if kind == "tokens":
        return position
    if kind == "samples":
        return position * plan.sequence_length
    ramp = plan.batch_ramp
    if ramp is None:
        return position * plan.batch_tokens
    increments = (plan.batch_tokens - ramp.start_batch_tokens) // ramp.increment_tokens
    each = ramp.ramp_tokens / max(increments, 1)
    steps, tokens = [0.0], [0.0]
    for stage in range(increments):
        batch = ramp.start_batch_tokens + stage * ramp.increment_tokens
        steps.append(steps[-1] + each / batch)
        tokens.append(tokens[-1] + each)
    steps.append(max(float(position.max()), steps[-1]) + 1)
    tokens.append(tokens[-1] + (steps[-1] - steps[-2]) * plan.batch_tokens)
    return np.interp(position, steps, tokens)
