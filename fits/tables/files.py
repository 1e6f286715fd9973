"""Tables as files: CSV, JSON lines and Parquet, read without changing a number or guessing from a column's name.

A cell of a CSV file is a number when the whole column is, and text otherwise: an id such as ``003`` stays as it is
written. JSON and Parquet say themselves what is a number.
"""

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fits.errors import UserError
from fits.files import write_bytes
from fits.tables.columns import TEXT

_ENDINGS = (".csv", ".jsonl", ".parquet")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = {"nan", "-nan", "inf", "+inf", "-inf", "infinity", "-infinity"}
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "null", "none"}
_LARGEST_EXACT = 2**53
_LARGEST_INT64 = 2**63


def read_table(path: str | Path, *, text: Collection[str] = TEXT) -> pd.DataFrame:
    """Read a table as it is, by its ending: .csv, .jsonl (both also .gz) or .parquet.

    Args:
        text: columns of a CSV file that hold text, whatever it looks like; those of a run table by default.

    Raises:
        UserError: the file is missing, has another ending, is empty or cannot be read as what its ending says; a row
            has more or fewer fields than the header; a column's name stands twice.
    """
    path = Path(path)
    ending = ending_of(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if ending == ".csv":
            frame = _from_csv(data.decode("utf-8-sig"), path, text)
        elif ending == ".jsonl":
            frame = _from_json_lines(data.decode("utf-8-sig"), path)
        else:
            frame = _from_parquet(data, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text; convert the file to UTF-8.") from None
    except (ValueError, EOFError, csv.Error) as error:  # Arrow's parsing errors are ValueErrors
        fault = (str(error).splitlines() or ["empty"])[0].rstrip(".")
        raise UserError(f"{path}: not a {ending} table ({fault}); mend or remake the file.") from None
    if frame.empty:
        raise UserError(f"{path} holds no rows; add at least one run.")
    return frame


def row_numbers(frame: pd.DataFrame) -> np.ndarray:
    """The rows of the file (from 1, the header not counted), for a table that was filtered as well."""
    index = frame.index.to_numpy()
    if pd.api.types.is_integer_dtype(index.dtype) and frame.index.is_unique and (index >= 0).all():
        return index + 1
    return np.arange(1, len(frame) + 1)


def ending_of(path: Path) -> str:
    """
    Raises:
        UserError: the file's name does not end as a table's does.
    """
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix not in _ENDINGS or (path.suffix == ".gz" and plain.suffix == ".parquet"):
        raise UserError(f"{path}: a table ends in .csv, .jsonl (either with .gz) or .parquet; rename or convert it.")
    return plain.suffix


def csv_cells(text: str, source: str | Path, *, skip_spaces: bool = False) -> dict[str, list[str]]:
    """The cells of a CSV table as they are written, a list a column.

    Args:
        skip_spaces: leave out blanks after a comma and around a name.

    Raises:
        UserError: nothing is there, a row has more or fewer fields than the header, or a name stands twice.
        csv.Error: a quote does not end.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=skip_spaces)
    rows = [row for row in lines if row]
    if not rows:
        raise UserError(f"{source} is empty; it must hold a line of column names and one line a row.")
    header, body = [name.strip() if skip_spaces else name for name in rows[0]], rows[1:]
    _check_separator(header, body, source)
    for number, row in enumerate(body, 1):
        # A comma at the end of a line makes one more field, of nothing; trackers and spreadsheets write such lines.
        while len(row) > len(header) and not row[-1].strip():
            row.pop()
        if len(row) != len(header):
            raise UserError(
                f"{source} row {number} has {len(row)} fields where the header has {len(header)}; "
                "put a field that holds a comma in double quotes, or mend the row."
            )
    columns = dict(enumerate(map(list, zip(*body, strict=True))))
    # A comma at the end of every line, the header in, makes a column of nothing with no name.
    kept = [index for index, name in enumerate(header) if name.strip() or any(map(str.strip, columns.get(index, [])))]
    _check_names([header[index] for index in kept], source)
    return {header[index]: columns.get(index, []) for index in kept}


def _from_csv(text: str, path: Path, as_text: Collection[str]) -> pd.DataFrame:
    columns = csv_cells(text, path)
    return pd.DataFrame(
        {name: _column(_texts(cells) if name in as_text else _numbers_in(cells)) for name, cells in columns.items()}
    )


def _check_separator(header: list[str], body: list[list[str]], source: str | Path) -> None:
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        fields = header[0].count(separator)
        if len(header) == 1 and fields and all(",".join(row).count(separator) == fields for row in body):
            raise UserError(f"{source}: its fields have {name} between them; write commas (and decimal points).")


def _check_names(names: Sequence[str], source: str | Path) -> None:
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        places = [str(index + 1) for index, name in enumerate(names) if name == again[0]]
        named = f"are both named '{again[0]}'; rename one of them" if again[0].strip() else "have no name; name them"
        raise UserError(f"{source}: columns {' and '.join(places)} {named}.")


def _numbers_in(column: list[str]) -> list[Any]:
    """The cells of a CSV column as numbers (or truths) if all are; else as they are written, None where empty."""
    plain = [cell.strip() for cell in column]
    if {cell.lower() for cell in plain} <= {"true", "false"}:
        return [cell.lower() == "true" for cell in plain]
    numbers: list[Any] = []
    for cell in plain:
        if _WHOLE.fullmatch(cell) and cell != "-0":
            numbers.append(int(cell))
        elif (_DECIMAL.fullmatch(cell) and abs(float(cell)) != float("inf")) or cell.lower() in _NOT_FINITE:
            numbers.append(float(cell))
        elif cell.lower() in _MISSING:
            numbers.append(None)
        else:
            return _texts(column)
    any_number = any(number is not None for number in numbers)
    return numbers if any_number or not any(plain) else _texts(column)


def _texts(column: list[str]) -> list[Any]:
    return [cell or None for cell in column]


def _from_json_lines(text: str, path: Path) -> pd.DataFrame:
    rows = list(json_rows(text, path))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names})


def json_rows(text: str, source: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines; ``{"config": {"lr": 1}}`` has the column ``config.lr``, and a list is its text.

    Raises:
        UserError: a line is no object, or a key stands twice in it.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue

        def flat(pairs: list[tuple[str, Any]], number: int = number) -> dict[str, Any]:
            every = [
                pair
                for name, value in pairs
                for pair in (
                    [(f"{name}.{inner}", each) for inner, each in value.items()]
                    if isinstance(value, dict)
                    else [(name, json.dumps(value) if isinstance(value, list) else value)]
                )
            ]
            again = [name for name, count in Counter(name for name, _ in every).items() if count > 1]
            if again:
                raise UserError(f"{source} line {number}: key '{again[0]}' stands twice; remove one.")
            return dict(every)

        try:
            value = json.loads(line, object_pairs_hook=flat)
        except json.JSONDecodeError as error:
            raise UserError(f"{source} line {number}: not JSON ({error.msg}); mend or remove the line.") from None
        if not isinstance(value, dict):
            raise UserError(f"{source} line {number} is {line.strip()[:40]!r}, not a JSON object; mend the line.")
        yield value


def _from_parquet(data: bytes, path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    _check_names(file.schema_arrow.names, path)
    table = file.read()
    frame = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    whole = [field.name for field in table.schema if pyarrow.types.is_integer(field.type)]
    return frame.assign(**{name: _column(frame[name].tolist()) for name in whole if frame[name].dtype == object})


def _column(values: list[Any]) -> pd.Series:
    """The cells as the simplest type of column that holds each of them exactly."""
    kinds = {type(value) for value in values if value is not None}
    full = None not in values
    if kinds == {bool} and full:
        return pd.Series(values, dtype=bool)
    if kinds == {int} and full and all(-_LARGEST_INT64 <= value < _LARGEST_INT64 for value in values):
        return pd.Series(values, dtype="int64")
    whole = [value for value in values if type(value) is int]
    if kinds <= {int, float} and all(abs(value) <= _LARGEST_EXACT for value in whole):
        return pd.Series([float("nan") if value is None else float(value) for value in values], dtype=float)
    return pd.Series(values, dtype=object)


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table by its ending, so that ``read_table`` finds the same numbers; whole or not at all.

    Raises:
        UserError: the file's name does not end as a table's does.
    """
    path = Path(path)
    ending = ending_of(path)
    if ending == ".csv":
        data = frame.to_csv(index=False).encode()
    elif ending == ".jsonl":
        names = [json.dumps(str(name)) for name in frame.columns]
        columns = [[_json(value) for value in frame.iloc[:, index]] for index in range(len(names))]
        lines = (", ".join(map(": ".join, zip(names, row, strict=True))) for row in zip(*columns, strict=True))
        data = "".join(f"{{{line}}}\n" for line in lines).encode()
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        data = buffer.getvalue()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _json(value: Any) -> str:
    """A cell as JSON, every digit of it; JSON has no infinity, but 1e999 is a number to it that all read as one."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or value is pd.NA or value != value:
        return "null"
    if isinstance(value, float) and abs(value) == float("inf"):
        return "1e999" if value > 0 else "-1e999"
    return json.dumps(value if isinstance(value, bool | int | float | str) else str(value))
