"""One layout of a run: what it takes, or why it cannot be used."""

import dataclasses
import re
from dataclasses import dataclass, fields
from typing import Any

from scaling.cluster.faults import faults
from scaling.cluster.hardware import Gpu
from scaling.cluster.hardware import gpu as find_gpu
from scaling.cluster.layout.assumptions import Assumptions, usual_assumptions
from scaling.cluster.layout.degrees import Degrees, data_replicas, micro_batches_of
from scaling.cluster.layout.memory import GIB, Memory, memory_of
from scaling.cluster.layout.time import StepTime, step_time
from scaling.cluster.run import Run
from scaling.plan import Layout


@dataclass(frozen=True)
class Candidate:
    """A layout with its memory and time, or with the reason against it; one that only lacks memory has all three."""

    layout: Layout
    reason: str = ""
    """Empty when it can be used."""
    memory: Memory | None = None
    time: StepTime | None = None

    @property
    def feasible(self) -> bool:
        return not self.reason


def estimate_layout(run: Run, layout: Layout, gpu: str | Gpu, *, assumptions: Assumptions | None = None) -> Candidate:
    """What a layout takes, or the first reason why it cannot be used.

    Args:
        gpu: a name in ``hardware.yaml``, or the figures themselves.

    Raises:
        UserError: the GPU is unknown.
    """
    figures = gpu if isinstance(gpu, Gpu) else find_gpu(gpu)
    for fault in faults(dataclasses.replace(run, layout=layout)):
        return Candidate(layout, fault)
    memory, time = taken(run, layout, figures, assumptions or usual_assumptions())
    memory, time = Memory(**_numbers(memory)), StepTime(**_numbers(time))
    return Candidate(layout, "" if memory.fits else too_large(memory.total, memory.usable), memory, time)


def taken(run: Run, layout: Degrees, gpu: Gpu, assumptions: Assumptions) -> tuple[Memory, StepTime]:
    """Memory and time of one layout or of columns of them, whether it fits or not."""
    shared: dict[str, Any] = {
        "sequence_length": run.sequence_length,
        "micro_batches": micro_batches_of(layout, run.batch_size),
        "assumptions": assumptions,
        "precision": run.precision,
    }
    memory = memory_of(run.model, layout, gpu_memory=gpu.memory_bytes, **shared)
    return memory, step_time(run.model, layout, gpu=gpu, **shared)


def cannot_interleave(micro_batches: int, pipeline: int) -> str:
    """Why a layout with several chunks a stage stops."""
    return f"{micro_batches} micro-batches are not a multiple of the {pipeline} stages, as interleaving needs"


def too_large(total: float, usable: float) -> str:
    """Why a layout does not fit."""
    return f"needs {total / GIB:.1f} GiB a GPU, {(total - usable) / GIB:.1f} GiB more than is usable"


def kind_of(reason: str) -> str:
    """A reason without its numbers and its mend, to count how many layouts fail alike."""
    if reason.startswith("needs "):
        return "needs more memory than is usable"
    return " ".join(re.sub(r"\b\d[\d,.]*\b", "", reason.split(";")[0]).split()).rstrip(" =")


def describe(layout: Layout) -> str:
    """A layout in one short line, degrees of 1 left out: ``TP2 PP16 VP2 EP8 DP32``."""
    degrees = {
        "TP": layout.tensor,
        "PP": layout.pipeline,
        "VP": layout.virtual_pipeline,
        "EP": layout.expert,
        "ETP": layout.expert_tensor,
        "CP": layout.context,
        "DP": data_replicas(layout),
    }
    return " ".join(f"{name}{degree}" for name, degree in degrees.items() if degree > 1) or "one GPU"


def _numbers(arrays: Memory | StepTime) -> dict[str, Any]:
    """The arithmetic's arrays of one element as plain numbers."""
    import numpy as np

    return {each.name: np.asarray(getattr(arrays, each.name)).item() for each in fields(arrays)}
