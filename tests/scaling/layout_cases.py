"""Models with published layouts, and runs of them, for the layout tests."""

import sys
from pathlib import Path
from typing import Any

from scaling.cluster.run import Run
from trainer_small.architecture import Architecture

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from layout_published import published, run_of, speeds

__all__ = ["MODELS", "PUBLISHED", "a_run", "speeds"]

PUBLISHED: dict[str, Any] = published()
MODELS: dict[str, Architecture] = PUBLISHED["models"]


def a_run(model: Architecture, *, batch: int = 1024, sequence_length: int = 4096, precision: str = "bf16") -> Run:
    return run_of({"sequence_length": sequence_length, "batch": batch, "precision": precision}, model)
