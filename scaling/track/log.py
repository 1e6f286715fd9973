"""The log of a big run: rows of step or tokens against loss, as trackers and training stacks write them."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fits.errors import UserError
from fits.files import read_text
from scaling.plan import TrainingPlan

STEP = ("step", "steps", "iteration", "iterations", "iter", "global_step", "_step", "train/step", "optimizer_step")
TOKENS = ("tokens", "tokens_seen", "consumed_tokens", "train_tokens", "num_tokens", "train/tokens", "total_tokens")
SAMPLES = ("consumed_samples", "samples", "train/consumed_samples", "consumed_train_samples")
VALIDATION = ("validation_loss", "val_loss", "eval_loss", "valid_loss", "val/loss", "eval/loss", "validation/loss")
TRAINING = ("loss", "train_loss", "lm_loss", "train/loss", "lm_loss_value", "loss/train", "train/lm_loss",
            "train/ce_loss", "loss_metrics/global_avg_loss", "bits_per_byte")  # fmt: skip
DECAYED = ("decayed", "annealed")


@dataclass(frozen=True)
class Log:
    """What a log says, in order of tokens; each step once."""

    tokens: np.ndarray
    loss: np.ndarray
    decayed: np.ndarray
    """Whether a row is the loss of a branch that was decayed to its end, not of the trunk."""
    notes: tuple[str, ...]
    """What was done to the rows, in sentences."""
    ends_in_nan: bool
    is_validation: bool


def read_log(
    path: str | Path,
    plan: TrainingPlan,
    *,
    step_column: str | None = None,
    loss_column: str | None = None,
) -> Log:
    """Read a CSV or JSON-lines log.

    Of rows with the same step the last in the file counts; where the steps go back once (a restart), all rows of the
    abandoned stretch are dropped; rows without a finite loss are dropped and counted.

    Args:
        path: ``.csv``, ``.jsonl`` or ``.json`` (one object a line).
        plan: gives the tokens of a step.
        step_column: of steps, tokens or samples, where its name is none of the usual ones.
        loss_column: where its name is none of the usual ones.

    Raises:
        UserError: no such file or column, or no row with numbers.
    """
    table = _table(path)
    axis, kind = _column(table, step_column, {**dict.fromkeys(TOKENS, "tokens"), **dict.fromkeys(STEP, "step"),
                                              **dict.fromkeys(SAMPLES, "samples")}, path, "--step-column")  # fmt: skip
    loss_name, loss_kind = _column(
        table,
        loss_column,
        {**dict.fromkeys(VALIDATION, "validation"), **dict.fromkeys(TRAINING, "training")},
        path,
        "--loss-column",
    )
    decayed_name = next((name for name in table.columns if _plain(name) in DECAYED), None)
    position = _numbers(table[axis])
    loss = _numbers(table[loss_name])
    decayed = np.zeros(len(table), bool)
    if decayed_name is not None:
        decayed = table[decayed_name].astype(str).str.strip().str.lower().isin(["1", "true", "yes", "1.0"]).to_numpy()
    logged = np.isfinite(position) & ~_blank(table[loss_name])
    finite = logged & np.isfinite(loss)
    notes = [f"loss is column '{loss_name}', position column '{axis}' ({kind})"]
    if (logged & ~finite).any():
        last = position[logged & ~finite][-1]
        notes.append(
            f"{int((logged & ~finite).sum())} rows without a finite loss left out, the last at {kind} {last:g}"
        )
    if not finite.any():
        raise UserError(f"{path}: no row has both a number in '{axis}' and one in '{loss_name}'; name the columns.")
    ends_in_nan = not finite[np.flatnonzero(logged)[-1]]
    kept, changed = _each_once(position[finite], decayed[finite])
    notes += changed
    position, loss, decayed = position[finite][kept], loss[finite][kept], decayed[finite][kept]
    if (position < 0).any():
        raise UserError(f"{path}: column '{axis}' has {position.min():g}; it must not be negative.")
    order = np.argsort(position, kind="stable")
    tokens = _tokens(position[order], kind, plan)
    return Log(tokens, loss[order], decayed[order], tuple(notes), ends_in_nan, loss_kind == "validation")


def _table(path: str | Path) -> pd.DataFrame:
    text = read_text(path)
    try:
        if Path(path).suffix in (".jsonl", ".json", ".ndjson"):
            rows = list(_objects(text, path))
            names = dict.fromkeys(name for row in rows for name in row)
            return pd.DataFrame({name: [row.get(name, "") for row in rows] for name in names}, dtype=object)
        return pd.read_csv(io.StringIO(text), skipinitialspace=True, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a table ({' '.join(str(error).split())}); mend the file.") from None


def _objects(text: str, path: str | Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{path} line {number}: not a JSON object; mend or remove the line.")
        yield value


def _plain(name: Any) -> str:
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


def _column(
    table: pd.DataFrame, wanted: str | None, usual: dict[str, str], path: str | Path, option: str
) -> tuple[str, str]:
    """The column's name in the file, and what it is; the order of ``usual`` is the preference."""
    if wanted is not None:
        if wanted not in table.columns:
            raise UserError(f"{path}: no column '{wanted}'; it has {', '.join(map(str, table.columns))}.")
        return wanted, usual.get(_plain(wanted), next(iter(usual.values())) if option == "--loss-column" else "step")
    names = {_plain(name): name for name in reversed(list(table.columns))}
    for name, kind in usual.items():
        if name in names and not _blank(table[names[name]]).all():
            return names[name], kind
    shown = ", ".join(map(str, table.columns)) or "none"
    raise UserError(
        f"{path}: no column of the usual names ({', '.join(list(usual)[:4])}, ...); it has {shown}; give {option}."
    )


def _numbers(column: Any) -> np.ndarray:
    """Cells as numbers; NaN where they are none."""
    return np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float)


def _blank(column: Any) -> np.ndarray:
    """Cells that say nothing, as trackers leave them in rows of other metrics; a written nan says something."""
    return np.array([value is None or not str(value).strip() for value in column])


def _each_once(position: np.ndarray, decayed: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which rows to keep, by number, and what was dropped."""
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
    return np.array(sorted(last.values()), dtype=int), notes


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
