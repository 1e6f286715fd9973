"""Tables as files: what is written is read back equal, whatever the names and the values; every fault is named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fits.errors import UserError
from fits.tables.columns import TEXT
from fits.tables.files import read_table, write_table

NAMES = st.one_of(
    st.sampled_from(
        [
            *("run_id", "loss", "decayed_at", "wall_time", "timestamp", "date", "modified", "index", "config.lr"),
            *("train/loss", "tokens (B)", "n [1e9]", " padded ", "a,b", 'say "N"', "x`y", "NA", "nan", "1", "1e9"),
            *("größe", "two\nlines"),
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8).filter(str.strip),
)
WHOLE = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 400, 2**53, 2**53 + 1, 20261127, 1700000000])
)
REAL = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.sampled_from([0.1, 1e-308, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3, -0.0, math.inf, -math.inf]),
)
LETTERS = st.one_of(
    st.sampled_from(
        ["003", "0x1F", "1_000", "1,000", "NA?", "12e4567", "2026-11-27", "True?", "-", "a b", "ünï", "7e", '"', "l\n2"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6).filter(
        lambda text: not _looks_like_something_else(text)
    ),
)


def _looks_like_something_else(text: str) -> bool:
    """CSV does not say whether 12, NA or True is text: as the only value of a column they are read as what they are."""
    plain = text.strip().lower()
    if plain in ("", "na", "n/a", "#n/a", "<na>", "null", "none", "nan", "inf", "infinity", "true", "false"):
        return True
    try:
        float(plain)
    except ValueError:
        return False
    return True


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[Any]]:
    rows = draw(st.integers(1, 6))
    table: dict[str, list[Any]] = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=5, unique=True)):
        kind = LETTERS if name in TEXT else draw(st.sampled_from([WHOLE, REAL, LETTERS, st.booleans()]))
        values = draw(st.lists(kind, min_size=rows, max_size=rows))
        holes = draw(st.lists(st.booleans(), min_size=rows, max_size=rows)) if kind in (WHOLE, REAL, LETTERS) else []
        table[name] = [None if hole else value for hole, value in zip(holes or [False] * rows, values, strict=True)]
    return table


def same(read: Any, wrote: Any) -> bool:
    """Equal as a number, to the last digit; equal as text; a hole is a hole."""
    if wrote is None:
        return read is None or read is pd.NA or (isinstance(read, float) and math.isnan(read))
    if isinstance(wrote, str):
        return isinstance(read, str) and read == wrote
    return not isinstance(read, str) and read == wrote


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "parquet"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_what_is_written_is_read_back_equal(tmp_path: Path, ending: str, table: dict[str, list[Any]]) -> None:
    path = tmp_path / f"table.{ending}"
    # A whole number beside a hole stays whole: pandas would make it a float, which is not what was meant.
    frame = pd.DataFrame({name: _series(values) for name, values in table.items()})
    write_table(frame, path)
    read = read_table(path)
    assert list(read.columns) == list(table)
    for name, values in table.items():
        for row, value in enumerate(values):
            assert same(read[name].tolist()[row], value), (name, row, value, read[name].tolist()[row])


def _series(values: list[Any]) -> pd.Series:
    present = [value for value in values if value is not None]
    if present and all(type(value) is int for value in present):
        return pd.Series(values, dtype="Int64")
    if present and all(type(value) is float for value in present):
        return pd.Series([math.nan if value is None else value for value in values], dtype=float)
    return pd.Series(values, dtype=bool if present and isinstance(present[0], bool) else object)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_json_lines_of_other_people_are_read_equal(tmp_path: Path, table: dict[str, list[Any]]) -> None:
    path = tmp_path / "theirs.jsonl"
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_table(path)
    for name, values in table.items():
        assert all(same(mine, theirs) for mine, theirs in zip(read[name].tolist(), values, strict=True))


def test_nothing_is_guessed_from_a_column_s_name(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(
        '{"run_id": "003", "decayed_at": 400, "timestamp": 1700000000, "date": 20, "modified": 1e9}\n'
        '{"run_id": "NA", "decayed_at": 800, "timestamp": 1700000001, "date": 30, "modified": 2e9}\n'
    )
    read = read_table(tmp_path / "runs.jsonl")
    assert read["run_id"].tolist() == ["003", "NA"]
    assert read["decayed_at"].tolist() == [400, 800]
    assert read["timestamp"].tolist() == [1700000000, 1700000001]
    assert read["modified"].tolist() == [1e9, 2e9]
    (tmp_path / "runs.csv").write_text("run_id,id,loss,seed\n003,007,2.5,1\nNA,010,,2\n")
    read = read_table(tmp_path / "runs.csv")
    assert read["run_id"].tolist() == ["003", "NA"]
    assert read["id"].tolist() == ["007", "010"]
    assert read["loss"].tolist()[0] == 2.5 and np.isnan(read["loss"].tolist()[1])


def test_numbers_that_floats_cannot_hold_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("n,huge,mixed\n9007199254740993,123456789012345678901234567890,9007199254740993\n,1,0.5\n")
    read = read_table(path)
    assert read["n"].tolist()[0] == 9007199254740993
    assert read["huge"].tolist() == [123456789012345678901234567890, 1]
    assert read["mixed"].tolist() == [9007199254740993, 0.5]


def test_nested_objects_become_dotted_columns(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"config": {"lr": 0.1, "model": {"n": 5}}, "tags": ["a"]}\n\n{"config": {"lr": 0.2}}\n')
    read = read_table(path)
    assert read.columns.tolist() == ["config.lr", "config.model.n", "tags"]
    assert read["config.lr"].tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    "text", ["N,D,loss\n1,2,3,\n4,5,6,\n", "N,D,loss,\n1,2,3,\n4,5,6,\n", "\ufeffN,D,loss\r\n1,2,3\r\n4,5,6"]
)
def test_a_comma_at_the_end_of_a_line_shifts_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(text.encode())
    read = read_table(path)
    assert read.to_dict("list") == {"N": [1, 4], "D": [2, 5], "loss": [3, 6]}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "N,D,loss\n1,2,3\n1,000,2,3\n", ["row 2 has 4 fields where the header has 3"]),
        ("a.csv", "N,D,loss\n1,2,3\n4,5\n", ["row 2 has 2 fields"]),
        ("a.csv", "N,loss,D,loss\n1,2,3,4\n", ["columns 2 and 4 are both named 'loss'"]),
        ("a.csv", "N;D;loss\n1;2;3\n4;5;6\n", ["semicolons", "commas"]),
        ("a.csv", "N;loss\n1;2,5\n4;5,5\n", ["semicolons"]),
        ("a.csv", 'N,D\n"1,2\n', ["not a .csv table"]),
        ("a.csv", "N,D\n", ["holds no rows"]),
        ("a.jsonl", '{"N": 1, "loss": 2, "loss": 3}\n', ["line 1", "'loss' stands twice"]),
        ("a.jsonl", '{"a": {"b": 1}, "a.b": 2}\n', ["line 1", "'a.b' stands twice"]),
        ("a.jsonl", '{"N": 1}\n[1, 2]\n', ["line 2", "not a JSON object"]),
        ("a.jsonl", '{"N": 1}\n{"N": \n', ["line 2", "not JSON"]),
        ("a.csv", "N,gr\xf6\xdfe\n1,2\n", ["byte 4 is not UTF-8"]),
    ],
)
def test_a_table_that_would_be_misread_is_refused(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        read_table(tmp_path / name)
    assert all(word in str(error.value) for word in [name, *words]), error.value


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    column = pyarrow.array([1.0, 2.0])
    table = pyarrow.Table.from_arrays([column, column], names=["loss", "loss"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="both named 'loss'"):
        read_table(tmp_path / "a.parquet")
