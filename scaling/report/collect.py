"""What a report is made of: the files of one folder, each read by the class that owns it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fits import Fit, read_runs, read_table
from fits.errors import UserError
from fits.tables.loss_units import UNITS
from scaling.plan import TrainingPlan
from scaling.report.exports import ExportedConfig, read_exports
from scaling.report.our_columns import our_columns
from trainer_small.sweeps.sweep import Sweep
from vocab_study.corpus.corpus import CorpusManifest
from vocab_study.study.study import Study


@dataclass(frozen=True)
class Material:
    """Everything found; what is not there is None and named in ``left_out``."""

    directory: Path
    manifest: CorpusManifest | None
    study: Study | None
    sweep: Sweep | None
    runs: pd.DataFrame | None
    law: Fit | None
    law_tokens: Fit | None
    plan: TrainingPlan | None
    plan_published: TrainingPlan | None
    exports: tuple[ExportedConfig, ...]
    left_out: tuple[str, ...]


_PARTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "plan": ("plan.yaml", "the plan", TrainingPlan.load),
    "plan_published": ("plan_axk1.yaml", "the second plan", TrainingPlan.load),
    "law": ("law.json", "the law", Fit.load),
    "law_tokens": ("law_tokens.json", "the law in parameters and tokens", Fit.load),
    "sweep": ("sweep.yaml", "the design of the sweep", Sweep.load),
    "study": ("study/study.json", "the vocabulary study", lambda path: Study.load(path.parent)),
    "manifest": ("corpus/manifest.json", "the corpus", CorpusManifest.load),
}
"""Part -> its file, what it is, and how it is read."""


def _runs_file(directory: Path, law: Fit | None) -> Path | None:
    """runs.csv, or the table that the law was fitted to."""
    named = [directory / "runs.csv"]
    if law is not None and law.data.path:
        named += [directory / Path(law.data.path).name, Path(law.data.path)]
    return next((path for path in named if path.is_file()), None)


def _runs(path: Path, law: Fit | None) -> pd.DataFrame:
    """The run table in our columns, whoever made it."""
    frame = read_table(path)
    columns = our_columns(frame, law)
    measured = [name for name in UNITS if name in columns or name in frame.columns]
    return read_runs(path, columns, required=(measured or ["loss"])[:1])


def collect(directory: str | Path) -> Material:
    """Read what a folder holds of the road from text to plan.

    Raises:
        UserError: the folder holds nothing of it, or a file in it is damaged.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder; give the one that holds plan.yaml, law.json and runs.csv.")
    found: dict[str, Any] = dict.fromkeys(_PARTS)
    left_out = []
    for part, (file, meaning, load) in _PARTS.items():
        if (directory / file).is_file():
            found[part] = load(directory / file)
        else:
            left_out.append(f"{meaning} ({file})")
    runs_file = _runs_file(directory, found["law"] or found["law_tokens"])
    found["runs"] = None if runs_file is None else _runs(runs_file, found["law"] or found["law_tokens"])
    if runs_file is None:
        left_out.append("the runs (runs.csv)")
    if runs_file is None and len(left_out) == len(_PARTS) + 1:
        files = ", ".join([file for file, _, _ in _PARTS.values()] + ["runs.csv"])
        raise UserError(f"{directory} holds nothing to report; it should have some of {files}.")
    exports = tuple(read_exports(directory / "configs"))
    if not exports:
        left_out.append("the exported configs (configs/)")
    return Material(directory=directory, exports=exports, left_out=tuple(left_out), **found)
