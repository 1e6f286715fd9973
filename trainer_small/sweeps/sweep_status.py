"""Where the runs of a folder stand, decided by its files alone; and the run table made of them."""

import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fits.errors import UserError
from fits.html import card
from trainer_small.config import RunConfig, RunSpec
from trainer_small.result import Losses, Result, read_result, result_path
from trainer_small.runs.lock import is_locked
from trainer_small.runs.metrics import last_record, read_metrics

if TYPE_CHECKING:
    import pandas as pd

_MOST_GROUPS = 32


@dataclass(frozen=True)
class RunStatus:
    run_id: str
    status: str
    """done, diverged, failed, running or queued (also: interrupted, to be carried on)."""
    step: int = 0
    steps: int | None = None
    """Of the whole run, once it has written metrics."""
    loss: float | None = None
    """Validation loss of a finished run, else the last training loss; nats per token."""
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    """Of a running one, at its speed so far."""
    reason: str | None = None
    attempts: int = 0
    """Tries that did not end well: out of memory, or diverged and begun again."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SweepStatus:
    """Where every run of a sweep stands."""

    runs: tuple[RunStatus, ...]
    interrupted: bool = False
    """The call that trained the sweep was stopped by a signal."""

    def _repr_html_(self) -> str:
        return card(
            ", ".join(f"{count} {status}" for status, count in self.count().items()),
            columns=["run", "status", "step", "loss", "why"],
            rows=[
                [run.run_id, run.status, run.step, "" if run.loss is None else f"{run.loss:.4f}", run.reason or ""]
                for run in self.runs
            ],
        )

    def count(self) -> dict[str, int]:
        """Runs by status."""
        return dict(Counter(run.status for run in self.runs))

    @property
    def complete(self) -> bool:
        return all(run.status in ("done", "diverged") for run in self.runs)

    @property
    def ended(self) -> bool:
        """Whether nothing runs or waits any more; failed runs wait for another call."""
        return not any(run.status in ("running", "queued") for run in self.runs)


def sweep_status(out: str | Path, run_ids: list[str] | None = None, *, interrupted: bool = False) -> SweepStatus:
    """The state of every run folder below ``out``, or of those named. Cheap: 10,000 runs take about a second.

    Raises:
        UserError: there is no run folder.
    """
    out = Path(out)
    names = run_ids if run_ids is not None else [directory.name for directory in run_directories(out)]
    return SweepStatus(tuple(run_status(out / name) for name in names), interrupted)


def run_directories(out: str | Path) -> list[Path]:
    """Folders below ``out`` that hold a run.

    Raises:
        UserError: there is none.
    """
    out = Path(out)
    names = sorted(os.listdir(out)) if out.is_dir() else []
    found = [out / name for name in names if os.path.exists(f"{out}/{name}/config.yaml")]
    if not found:
        raise UserError(f"{out} holds no runs; start some with: scaling sweep run sweep.yaml --out {out}")
    return found


def run_status(directory: Path) -> RunStatus:
    """The state of one run folder."""
    names = set(os.listdir(directory))
    attempts = len(read_metrics(directory / "attempts.jsonl")) if "attempts.jsonl" in names else 0
    result = _outcome(directory) if "result.json" in names else None
    status = _word(directory, result["status"] if result else None)
    if result is not None and status == result["status"]:
        loss = (result.get("losses") or {}).get("loss")
        speed = (result.get("speed") or {}).get("tokens_per_second")
        steps = (result["step"], result["steps"])
        return RunStatus(directory.name, status, *steps, loss, speed, None, result.get("reason"), attempts)
    last = last_record(directory / "metrics.jsonl", "loss")
    if last is None:
        return RunStatus(directory.name, status, attempts=attempts)
    step, speed = last["step"], last["tokens_per_second"] or None
    left, steps = None, None
    if status == "running":
        steps = RunConfig.load(directory / "config.yaml").training.steps
        left = (steps - step) * last["tokens"] / step / speed if speed else None
    return RunStatus(directory.name, status, step, steps, last["loss"], speed, left, attempts=attempts)


def _outcome(directory: Path) -> dict[str, Any]:
    """``result.json`` as it is: checking all its values against their types takes ten times as long."""
    try:
        return json.loads(result_path(directory).read_bytes())
    except ValueError:
        return Result.load(result_path(directory)).model_dump()  # says what is wrong


def _word(directory: Path, status: str | None) -> str:
    if status is not None and status != "failed":
        return status
    if is_locked(directory):
        return "running"
    return "queued" if status is None else status


def sweep_table(out: str | Path) -> "pd.DataFrame":
    """The run table (columns of ``fits.tables.runs``): one row a run folder below ``out``, by run_id.

    Raises:
        UserError: there is no run folder.
    """
    import pandas as pd

    from fits.tables.columns import COLUMNS

    frame = pd.DataFrame([_row(directory) for directory in run_directories(out)])
    known = [column.name for column in COLUMNS if column.name in frame.columns]
    return frame.reindex(columns=known + [name for name in frame.columns if name not in known])


def planned_row(config: RunSpec) -> dict[str, Any]:
    """The columns of the run table that are known before the run is trained."""
    architecture, training = config.architecture, config.training
    row: dict[str, Any] = {
        "run_id": config.run_id,
        "purpose": config.purpose,
        "trunk": config.trunk.run_id if config.trunk else None,
        "seed": config.seed,
    }
    for key in (
        "vocab_size",
        "hidden_size",
        "num_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "num_experts",
        "experts_per_token",
        "num_shared_experts",
        "expert_ffn_size",
        "dense_ffn_size",
        "num_dense_layers",
        "params_total",
        "params_active",
        "params_active_non_embedding",
        "activation_ratio",
        "granularity",
    ):
        row[key] = getattr(architecture, key)
    row["flops_per_token"] = architecture.flops_per_token(training.sequence_length)
    return row | {
        "tokens": training.tokens_trained,
        "train_flops": config.train_flops,
        "tokens_spent": config.tokens_spent,
        "train_flops_spent": config.train_flops_spent,
        "sequence_length": training.sequence_length,
        "batch_tokens": training.batch_tokens,
        "learning_rate": training.learning_rate,
    }


def _row(directory: Path) -> dict[str, Any]:
    config, result = RunConfig.load(directory / "config.yaml"), read_result(directory)
    row = planned_row(config) | {"status": _word(directory, result.status if result else None)}
    counts, losses, speed = (result.counts, result.losses, result.speed) if result else (None, None, None)
    if counts:
        names = ("tokens", "train_flops", "tokens_spent", "train_flops_spent")
        row |= {name: getattr(counts, name) for name in names}
    return row | {
        "train_bytes": counts.train_bytes if counts else None,
        "loss": losses.loss if losses else None,
        "bits_per_byte": losses.bits_per_byte if losses else None,
        "loss_standard_error": losses.loss_standard_error if losses else None,
        "unigram_loss": losses.unigram_loss if losses else None,
        "tokenizer": (result.tokenizer_sha256 or "")[:12] if result else None,
        "corpus": (result.corpus_sha256 or "")[:12] if result else None,
        "wall_seconds": speed.wall_seconds if speed else None,
        "tokens_per_second": speed.tokens_per_second if speed else None,
        "device": result.machine.device if result and result.machine else None,
        **_bits_per_byte_by_group(losses),
    }


def _bits_per_byte_by_group(losses: Losses | None) -> dict[str, float]:
    """Columns such as ``bits_per_byte_ko``; without them where groups are files by the hundred."""
    groups = losses.groups if losses else {}
    if not 1 < len(groups) <= _MOST_GROUPS:
        return {}
    return {re.sub(r"\W", "_", f"bits_per_byte_{name}"): group.bits_per_byte for name, group in groups.items()}
