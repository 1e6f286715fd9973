"""The run table: every format reads back what was written; every fault names its place."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fits.errors import UserError
from fits.tables.runs import column_values, filter_rows, read_runs, read_table, usable_runs, write_runs


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "loss": [3.5, 3.25, np.nan],
            "run_id": ["a", "b", "c"],
            "status": ["done", "done", "diverged"],
            "tokens": [10**9, 2 * 10**9, 10**9],
            "train_flops": [6e17, 1.2e18, 6e17],
            "params_total": [10**8, 10**8, None],
            "remark": ["x", "", "z"],
        }
    )


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_reads_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"runs.{ending}"
    write_runs(table(), path)
    runs = read_runs(path)
    assert list(runs.columns)[:2] == ["run_id", "status"]
    assert runs["tokens"].tolist() == [10**9, 2 * 10**9, 10**9]
    assert runs["loss"].iloc[:2].tolist() == [3.5, 3.25]
    assert np.isnan(runs["params_total"].iloc[2])
    usable, note = usable_runs(runs)
    assert len(usable) == 2
    assert note == "left out: 1 diverged"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("tokens", -5, ["row 2", "'tokens'", "-5", "above 0"]),
        ("tokens", 0, ["row 2", "'tokens'", "above 0"]),
        ("tokens", 1.5, ["row 2", "'tokens'", "whole"]),
        ("tokens", "many", ["row 2", "'tokens'", "'many'", "not a number"]),
        ("loss", float("nan"), ["row 2", "'loss'", "NaN"]),
        ("loss", float("inf"), ["row 2", "'loss'", "inf"]),
        ("status", "zorgled", ["row 2", "status", "'zorgled'", "done"]),
    ],
)
def test_a_fault_names_row_column_and_value(tmp_path: Path, column: str, value: object, words: list[str]) -> None:
    frame = table().astype({column: object})
    frame.loc[1, column] = value
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(UserError) as error:
        read_runs(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_missing_column_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    table().rename(columns={"loss": "losss"}).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"'loss' is missing \(did you mean 'losss'\?\)"):
        read_runs(path)


def test_other_peoples_columns_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    pd.DataFrame({"Model Size": [1e8, 2e8], "FLOP": [6e17, 2.4e18], "Eval": [3.0, 2.5]}).to_csv(path, index=False)
    runs = read_runs(path, columns={"loss": "Eval", "tokens": "FLOP/(6*`Model Size`)", "train_flops": "FLOP"})
    assert runs["tokens"].tolist() == [10**9, 2 * 10**9]
    with pytest.raises(UserError, match="did you mean 'Model Size'"):
        read_runs(path, columns={"loss": "Eval", "tokens": "FLOP/`Model Sise`"})


@pytest.mark.parametrize(
    "name", ["runs.txt", "runs.parquet.gz", "missing.csv", "empty.csv", "broken.jsonl", "bad.parquet"]
)
def test_unreadable_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_text("" if "empty" in name else "{not json\n")
    with pytest.raises(UserError, match=name):
        read_table(tmp_path / name)


def test_rows_are_filtered_by_a_condition() -> None:
    frame = pd.DataFrame({"loss": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"], "big one": [1, 2, 3]})
    assert len(filter_rows(frame, "loss < 3 and kind == 'a' or not `big one` <= 2")) == 2
    assert len(filter_rows(frame, "1 < loss <= 3")) == 2
    for condition in ("los < 3", "loss", "loss < 0", "kind < 3", "loss < __import__('os')"):
        with pytest.raises(UserError):
            filter_rows(frame, condition)


def test_an_expression_over_columns() -> None:
    frame = pd.DataFrame({"a": [1.0, 4.0], "b": ["x", "y"]})
    assert column_values(frame, "sqrt(a) + 1").tolist() == [2.0, 3.0]
    with pytest.raises(UserError, match="row 1: column 'b' holds 'x'"):
        column_values(frame, "a + b")
