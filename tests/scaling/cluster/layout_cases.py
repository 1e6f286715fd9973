"""Models with published layouts, and runs of them, for the layout tests."""

from typing import Any

from benchmarks.cluster.published_runs import published, run_of, speeds
from scaling.cluster.run import Run
from trainer_small.architecture import Architecture

__all__ = ["MODELS", "PUBLISHED", "a_run", "speeds"]

PUBLISHED: dict[str, Any] = published()
MODELS: dict[str, Architecture] = PUBLISHED["models"]


def a_run(model: Architecture, *, batch: int = 1024, sequence_length: int = 4096, precision: str = "bf16") -> Run:
    return run_of({"sequence_length": sequence_length, "batch": batch, "precision": precision}, model)
