"""What went wrong with a run before: ``attempts.jsonl``, one line a try that did not end well. No torch here."""

from pathlib import Path
from typing import Literal

from fits.files import write_text
from fits.schema import Schema
from trainer_small.config import RunConfig, TrainingConfig
from trainer_small.result import read_result, result_path
from trainer_small.runs.checkpoint_files import checkpoints
from trainer_small.runs.metrics import append_metrics, read_metrics


class Attempt(Schema):
    outcome: Literal["out of memory", "diverged"]
    step: int | None = None
    """Where it diverged."""
    reason: str | None = None
    micro_batch_tokens: int | None = None
    """Out of memory: what the next try takes."""


def read_attempts(directory: Path) -> list[Attempt]:
    """Tries that did not end well, first to last."""
    path = directory / "attempts.jsonl"
    return [Attempt.parse(record, path) for record in read_metrics(path)]


def add_attempt(directory: Path, attempt: Attempt) -> None:
    append_metrics(directory / "attempts.jsonl", attempt.model_dump(mode="json", exclude_none=True))


def fitted_to_memory(directory: Path, config: RunConfig) -> RunConfig:
    """The config with the micro-batch that earlier tries left: the smallest that they came down to."""
    sizes = [attempt.micro_batch_tokens for attempt in read_attempts(directory) if attempt.micro_batch_tokens]
    if not sizes:
        return config
    training = config.training.model_copy(update={"micro_batch_tokens": min(sizes)})
    return config.model_copy(update={"training": training})


def smaller_micro_batch(training: TrainingConfig) -> int | None:
    """The largest divisor of the batch, in whole sequences, of at most half the micro-batch; None below one."""
    sequences = training.batch_tokens // training.sequence_length
    half = (training.micro_batch_tokens or training.batch_tokens) // training.sequence_length // 2
    fitting = [count for count in range(1, half + 1) if sequences % count == 0]
    return fitting[-1] * training.sequence_length if fitting else None


def try_again_if_diverged(directory: Path, retries: int) -> bool:
    """Put a diverged run back to its start, unless it has diverged more than ``retries`` times before.

    The config stays what it is: on a CPU the same bits diverge again; on a GPU, whose rounding varies, they need not.
    """
    result = read_result(directory)
    if result is None or result.status != "diverged":
        return False
    before = sum(attempt.outcome == "diverged" for attempt in read_attempts(directory))
    if before >= retries:
        return False
    add_attempt(directory, Attempt(outcome="diverged", step=result.step, reason=result.reason))
    for checkpoint in [*checkpoints(directory, "checkpoint"), *checkpoints(directory, "kept")]:
        checkpoint.unlink(missing_ok=True)
    write_text(directory / "metrics.jsonl", "")
    result_path(directory).unlink(missing_ok=True)
    return True
