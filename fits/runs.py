"""The run table: one row a training run, as CSV, JSONL or Parquet, with one list of columns for everybody."""

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fits.errors import UserError, nearest
from fits.expression import evaluate, names, parse
from fits.files import write_bytes


@dataclass(frozen=True)
class Column:
    """One column: what it means, its unit, and which values it may hold."""

    name: str
    meaning: str
    unit: str = ""
    kind: Literal["text", "count", "number"] = "number"
    domain: Literal["any", "non-negative", "positive", "fraction"] = "positive"


_TEXT: dict[str, Any] = {"kind": "text", "domain": "any"}
_COUNT: dict[str, Any] = {"kind": "count", "domain": "positive"}
_COUNT_OR_NONE: dict[str, Any] = {"kind": "count", "domain": "non-negative"}

COLUMNS: tuple[Column, ...] = (
    Column("run_id", "name of the run", **_TEXT),
    Column("status", "done, diverged, failed, running or queued", **_TEXT),
    Column("purpose", "what the run was bought for", **_TEXT),
    Column("trunk", "run whose state before the decay this one started from", **_TEXT),
    Column("seed", "random seed", kind="count", domain="any"),
    Column("vocab_size", "tokens in the vocabulary", **_COUNT),
    Column("hidden_size", "width of the residual stream", **_COUNT),
    Column("num_layers", "transformer layers", **_COUNT),
    Column("num_attention_heads", "query heads", **_COUNT),
    Column("num_key_value_heads", "key and value heads", **_COUNT),
    Column("num_experts", "routed experts a layer; 0 is dense", **_COUNT_OR_NONE),
    Column("experts_per_token", "routed experts one token passes through", **_COUNT_OR_NONE),
    Column("num_shared_experts", "experts every token passes through", **_COUNT_OR_NONE),
    Column("expert_ffn_size", "width of one expert", **_COUNT_OR_NONE),
    Column("dense_ffn_size", "FFN width of the layers without experts", **_COUNT_OR_NONE),
    Column("num_dense_layers", "leading layers without experts", **_COUNT_OR_NONE),
    Column("params_total", "trainable parameters", **_COUNT),
    Column("params_active", "parameters one token passes through, embeddings in", **_COUNT),
    Column("params_active_non_embedding", "the same less both embedding matrices", **_COUNT),
    Column("activation_ratio", "(experts_per_token + shared) / (num_experts + shared)", domain="fraction"),
    Column("granularity", "2 * hidden_size / expert_ffn_size"),
    Column("flops_per_token", "training FLOPs of one token, causal attention", "FLOP"),
    Column("tokens", "training tokens seen", "tokens", **_COUNT),
    Column("train_flops", "flops_per_token * tokens", "FLOP"),
    Column("tokens_spent", "tokens the run trained on itself; a branch's trunk saw the others", "tokens", **_COUNT),
    Column("train_flops_spent", "flops_per_token * tokens_spent: what the run adds to the bill", "FLOP"),
    Column("train_bytes", "UTF-8 bytes of training text seen", "bytes"),
    Column("sequence_length", "tokens in a sequence", "tokens", **_COUNT),
    Column("batch_tokens", "tokens in a batch", "tokens", **_COUNT),
    Column("learning_rate", "peak learning rate"),
    Column("loss", "validation cross-entropy", "nats/token"),
    Column("bits_per_byte", "validation loss for each byte of text", "bits/byte"),
    Column("loss_standard_error", "standard error of loss", "nats/token", domain="non-negative"),
    Column("unigram_loss", "cross-entropy of the training text's unigrams; L_u is loss less this", "nats/token"),
    Column("tokenizer", "tokenizer folder or name", **_TEXT),
    Column("corpus", "training corpus", **_TEXT),
    Column("wall_seconds", "training time", "s", domain="non-negative"),
    Column("tokens_per_second", "training speed", "tokens/s", domain="non-negative"),
    Column("device", "what it ran on", **_TEXT),
)
_BY_NAME = {column.name: column for column in COLUMNS}
STATUSES = ("done", "diverged", "failed", "running", "queued")
_ENDINGS = (".csv", ".jsonl", ".parquet")
_MUST = {"positive": "must be above 0", "non-negative": "must be 0 or more", "fraction": "must be in (0, 1]"}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table as it is, by its ending: .csv, .jsonl (both also .gz) or .parquet.

    Raises:
        UserError: the file is missing, has another ending, is empty or cannot be read as what its ending says.
    """
    path = Path(path)
    ending = _ending(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if ending == ".csv":
            frame = pd.read_csv(io.BytesIO(data))
        elif ending == ".jsonl":
            frame = pd.read_json(io.BytesIO(data), lines=True)
        else:
            frame = pd.read_parquet(io.BytesIO(data))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError) as error:  # pandas' and Arrow's parsing errors are ValueErrors
        fault = (str(error).splitlines() or ["empty"])[0].rstrip(".")
        raise UserError(f"{path}: not a {ending} table ({fault}); mend or remake the file.") from None
    if frame.empty:
        raise UserError(f"{path} holds no rows; add at least one run.")
    return frame.rename(columns=str)


def _ending(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    if plain.suffix not in _ENDINGS or (path.suffix == ".gz" and plain.suffix == ".parquet"):
        raise UserError(f"{path}: a table ends in .csv, .jsonl (either with .gz) or .parquet; rename or convert it.")
    return plain.suffix


def column_values(frame: pd.DataFrame, text: str, *, source: str | Path = "table") -> np.ndarray:
    """A column, or an arithmetic expression over columns, as floats.

    Raises:
        UserError: a column is missing or holds text; names ``source``, the column, the row and the value.
    """
    if text in frame.columns:
        return _numbers(frame, text, source)
    node = parse(text)
    values: dict[str, np.ndarray] = {}
    for name in names(node):
        if name not in frame.columns:
            raise UserError(
                f"{source}: there is no column '{name}'{nearest(name, map(str, frame.columns))}; "
                f"its columns are {', '.join(map(str, frame.columns))}."
            )
        values[name] = _numbers(frame, name, source)
    return np.broadcast_to(np.asarray(evaluate(node, values), dtype=float), (len(frame),)).copy()


def _numbers(frame: pd.DataFrame, name: str, source: str | Path) -> np.ndarray:
    column = pd.Series(frame[name])
    numbers = pd.Series(pd.to_numeric(column, errors="coerce"))
    wrong = column.notna().to_numpy() & numbers.isna().to_numpy()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{source} row {row + 1}: column '{name}' holds {str(column.iloc[row])!r}, "
            "which is not a number; correct or drop the row."
        )
    return numbers.to_numpy(dtype=float, na_value=np.nan)


def filter_rows(frame: pd.DataFrame, condition: str, *, source: str | Path = "table") -> pd.DataFrame:
    """The rows that meet a condition such as ``loss < 5 and optimizer == 'adamw'``.

    Raises:
        UserError: the condition cannot be read, names a column that is missing, or leaves no row.
    """
    node = parse(condition, conditions=True)
    for name in names(node):
        if name not in frame.columns:
            raise UserError(
                f"{source}: the condition {condition!r} names '{name}', which is no "
                f"column{nearest(name, map(str, frame.columns))}; its columns are {', '.join(map(str, frame.columns))}."
            )
    values = {name: frame[name].to_numpy() for name in names(node)}
    keep = np.broadcast_to(np.asarray(evaluate(node, values)), (len(frame),))
    if keep.dtype != bool:
        raise UserError(f"The condition {condition!r} is a number, not a comparison; write it as in 'loss < 5'.")
    if not keep.any():
        raise UserError(f"{source}: no row meets {condition!r}; loosen the condition.")
    return frame.loc[keep]


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
        column = _BY_NAME.get(ours)
        if column is not None and column.kind == "text":
            if theirs not in frame.columns:
                raise UserError(f"{path}: there is no column '{theirs}'{nearest(theirs, frame.columns)} for '{ours}'.")
            frame[ours] = frame[theirs]
        else:
            frame[ours] = column_values(frame, theirs, source=path)
    for name in required:
        if name not in frame.columns:
            raise UserError(
                f"{path}: column '{name}' is missing{nearest(name, frame.columns)}; add it or map another column to it."
            )
    for column in COLUMNS:
        if column.name in frame.columns:
            frame[column.name] = _checked(frame, column, path)
    done = _done(frame)
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
        series = pd.Series(frame[column.name])
        if column.name == "status":
            for row, value in enumerate(series):
                if value not in STATUSES:
                    raise UserError(f"{path} row {row + 1}: status is {value!r}; it must be {', '.join(STATUSES)}.")
        return series
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


def _done(frame: pd.DataFrame) -> np.ndarray:
    if "status" not in frame.columns:
        return np.ones(len(frame), dtype=bool)
    return (frame["status"] == "done").to_numpy()


def usable_runs(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that are done, and a sentence that says what was left out (empty when nothing was).

    Raises:
        UserError: no run is done.
    """
    done = _done(frame)
    if not done.any():
        raise UserError("No run in the table is done; finish some before fitting.")
    left_out = ", ".join(f"{count} {status}" for status, count in _left_out(frame, done))
    return frame.loc[done].reset_index(drop=True), f"left out: {left_out}" if left_out else ""


def _left_out(frame: pd.DataFrame, done: np.ndarray) -> Iterator[tuple[str, int]]:
    if not done.all():
        for status, count in frame.loc[~done, "status"].value_counts().items():
            yield str(status), int(count)


def write_runs(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a run table by its ending, known columns first and in order; whole or not at all."""
    path = Path(path)
    ending = _ending(path)
    known = [column.name for column in COLUMNS if column.name in frame.columns]
    frame = frame.reindex(columns=known + [name for name in frame.columns if name not in known])
    for name in known:
        if _BY_NAME[name].kind == "count":
            frame[name] = frame[name].astype("Int64")  # a whole number stays one beside missing values
    if ending == ".csv":
        data = frame.to_csv(index=False).encode()
    elif ending == ".jsonl":
        data = (frame.to_json(orient="records", lines=True, double_precision=15) or "").encode()
    else:
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        data = buffer.getvalue()
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
