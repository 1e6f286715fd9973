"""``metrics.jsonl``: one line for a stretch of steps, one for each evaluation; whole lines only."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from fits.files import write_text

_TAIL_BYTES = 8192
"""Holds some tens of lines."""


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Append one line in a single write, so that a crash leaves no half of it before the end of the file.

    Raises:
        OSError: the disk took only a part of it.
    """
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last one is passed over."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def last_record(path: Path, key: str) -> dict[str, Any] | None:
    """The last whole line that has ``key``, from the end of the file alone; none without a file."""
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - _TAIL_BYTES))
        lines = handle.read().split(b"\n")
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # torn, or cut by where we began to read
            continue
        if key in record:
            return record
    return None


def truncate_metrics(path: Path, step: int, *, evaluated: int) -> None:
    """Keep what was recorded up to ``step``, and evaluations up to ``evaluated``: the rest will be done, and written,
    again."""
    last = {True: evaluated, False: step}
    kept = [record for record in read_metrics(path) if record["step"] <= last["validation_loss" in record]]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
