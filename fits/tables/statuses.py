"""Which runs of a table are done, by the words that loggers and schedulers use for it."""

from pathlib import Path

import pandas as pd

from fits.errors import UserError
from fits.tables.files import row_numbers

DONE = "done"
_WORDS = {
    DONE: "done finished finish completed complete success succeeded successful ok passed published",
    "diverged": "diverged nan",
    "failed": "failed failure fail crashed crash error errored killed cancelled canceled aborted stopped timeout "
    "timed_out out_of_memory oom node_fail boot_fail preempted interrupted terminated",
    "running": "running active in_progress started resuming preempting completing",
    "queued": "queued pending scheduled created waiting submitted configuring suspended",
}
_MEANING = {word: ours for ours, words in _WORDS.items() for word in words.split()}
_COLUMNS = ("status", "state", "run_status", "run_state")


def status_column(frame: pd.DataFrame) -> str | None:
    """The column that says how the runs ended: ``status``, or one of a logger's names that holds a known word.

    ``State``, ``run.state`` and ``summary/status`` count too; a column ``state`` of other words is something else.
    """
    if "status" in frame.columns:
        return "status"
    for name in map(str, frame.columns):
        last = name.replace("/", ".").rsplit(".", 1)[-1]
        if _plain(last) in _COLUMNS and any(_plain(value) in _MEANING for value in frame[name]):
            return name
    return None


def statuses(frame: pd.DataFrame, source: str | Path = "table") -> pd.Series | None:
    """Each run's status in our words (``STATUSES``), empty where the table says nothing; None without a column of them.

    Raises:
        UserError: a status is no known word; names the row.
    """
    column = status_column(frame)
    if column is None:
        return None
    found = []
    for row, value in zip(row_numbers(frame), frame[column], strict=True):
        if pd.isna(value) or not str(value).strip():
            found.append("")
        elif _plain(value) in _MEANING:
            found.append(_MEANING[_plain(value)])
        else:
            raise UserError(
                f"{source} row {row}: {column} is {value!r}, which is no known status; write done, diverged, failed, "
                "running or queued, or drop the column."
            )
    return pd.Series(found, index=frame.index, dtype=object)


def _plain(value: object) -> str:
    return str(value).strip().lower().replace(" ", "_").replace("-", "_")
