"""Every parallel layout of a run on a cluster, the feasible ones ranked by their step time."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fits.errors import UserError
from scaling.cluster.hardware import Gpu
from scaling.cluster.hardware import gpu as find_gpu
from scaling.cluster.layout.assumptions import Assumptions, usual_assumptions
from scaling.cluster.layout.candidates import RECOMPUTE, Rejected, candidates
from scaling.cluster.layout.degrees import Columns, data_replicas, micro_batches_of
from scaling.cluster.layout.estimate import Candidate, cannot_interleave, estimate_layout, kind_of, taken, too_large
from scaling.cluster.layout.megatron_memory import megatron_state_bytes
from scaling.cluster.layout.memory import GIB
from scaling.cluster.layout.shortage import why_none
from scaling.cluster.layout.time import StepTime
from scaling.cluster.run import Run, run_of
from scaling.plan import Layout, LayoutEstimate, TrainingPlan

if TYPE_CHECKING:
    import pandas as pd

_DEGREES = ("tensor", "pipeline", "virtual_pipeline", "expert", "expert_tensor", "context", "micro_batch_size")
_STRUCTURE = ["tensor", "pipeline", "expert", "expert_tensor", "context"]


@dataclass(frozen=True)
class Layouts:
    """All layouts of a run on a cluster: the feasible ones first, fastest first."""

    run: Run
    gpu_name: str
    gpu: Gpu
    gpus: int
    assumptions: Assumptions
    table: "pd.DataFrame"
    """One row a layout: ``rank`` (missing when it cannot be used), degrees, what it takes, the ``reason`` against it.

    Degrees that no micro-batch or recomputation could save are one row, without memory and time.
    """

    @property
    def feasible(self) -> Any:
        """The rows that can be used."""
        return self.table[self.table["rank"].notna()]

    @property
    def best(self) -> Candidate:
        """The fastest.

        Raises:
            UserError: none can be used; says what is short and by how much.
        """
        if not len(self.feasible):
            raise UserError(why_none(self.run, self.gpus, self.gpu_name, self.gpu, self.assumptions, self.table))
        return self.candidate(0)

    def candidate(self, position: int) -> Candidate:
        """The layout in one row of ``table``, by position, with its memory and time in parts."""
        row = self.table.iloc[position]
        degrees = {name: int(row[name]) for name in _DEGREES}
        layout = Layout(gpus=self.gpus, recompute=row["recompute"], **degrees)
        return estimate_layout(self.run, layout, self.gpu, assumptions=self.assumptions)

    def only(self, **degrees: int | str | None) -> "Layouts":
        """Those with the degrees given, by the names of ``plan.yaml``; None stands for any.

        Raises:
            UserError: no such layout was searched.
        """
        if degrees.get("recompute") not in (None, *RECOMPUTE):
            raise UserError(f"recompute is '{degrees['recompute']}'; it must be one of {', '.join(RECOMPUTE)}.")
        table: Any = self.table
        for name, value in degrees.items():
            if value is not None:
                table = table[(table[name] == value) | table[name].isna()]
        if not len(table):
            wanted = ", ".join(f"{name} {value}" for name, value in degrees.items() if value is not None)
            raise UserError(f"no layout of {self.gpus} GPUs has {wanted}; their product must divide the GPUs.")
        return replace(self, table=table.reset_index(drop=True))

    def without_twins(self) -> Any:
        """The feasible rows, of each (TP, PP, EP, ETP, CP) the fastest only."""
        return self.feasible.drop_duplicates(_STRUCTURE)

    def reasons(self) -> dict[str, int]:
        """How many rows fail for each kind of reason, most frequent first."""
        table: Any = self.table
        failed = table.loc[table["rank"].isna(), "reason"]
        return failed.map(kind_of).value_counts().to_dict()

    def days(self, candidate: Candidate) -> float:
        """Wall time of the whole run, without stops."""
        return _time(candidate).total * self.run.steps / 86400

    def flops_per_gpu(self, candidate: Candidate) -> float:
        """Model FLOP/s of one GPU, by the exact count with causal attention."""
        return _step_flops(self.run) / _time(candidate).total / self.gpus

    def mfu(self, candidate: Candidate) -> float:
        """Model FLOP/s over the dense bf16 peak."""
        return self.flops_per_gpu(candidate) / self.gpu.peak_flops

    def in_plan(self, plan: TrainingPlan, candidate: Candidate) -> TrainingPlan:
        """The plan with this layout and what it is estimated to take."""
        estimate = LayoutEstimate(
            memory_gib=candidate.memory.total / GIB if candidate.memory else 0.0,
            step_seconds=_time(candidate).total,
            days=self.days(candidate),
            tflops_per_gpu=self.flops_per_gpu(candidate) / 1e12,
        )
        return plan.model_copy(update={"layout": candidate.layout, "layout_estimate": estimate})


def search_layouts(
    plan: TrainingPlan | Run,
    gpus: int,
    gpu: str | Gpu,
    *,
    assumptions: Assumptions | None = None,
    hardware_file: str | Path | None = None,
) -> Layouts:
    """Every combination of degrees that makes up ``gpus``, judged for a plan or for what a stack is told of it.

    Args:
        gpus: number of accelerators.
        gpu: a name in ``hardware.yaml`` or in ``hardware_file``, or the figures themselves.

    Raises:
        UserError: the GPU is unknown, or the number makes no sense. That no layout can be used is no error here:
            ``table`` has the reasons, and ``best`` raises.
    """
    if gpus < 1:
        raise UserError(f"--gpus is {gpus}; give a number above 0.")
    figures = gpu if isinstance(gpu, Gpu) else find_gpu(gpu, hardware_file)
    name = "GPUs" if isinstance(gpu, Gpu) else gpu.lower()
    run = plan if isinstance(plan, Run) else run_of(plan)
    assumed = assumptions or usual_assumptions()
    groups, rejected = candidates(run, gpus, figures)
    return Layouts(run, name, figures, gpus, assumed, _table(run, groups, rejected, figures, assumed))


def _table(
    run: Run, groups: list[Columns], rejected: list[Rejected], gpu: Gpu, assumptions: Assumptions
) -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    judged = [_rows(run, group, gpu, assumptions) for group in groups]
    judged += [_rejected_rows(rejected)] if rejected else []
    if not judged:
        return pd.DataFrame({"rank": [], "reason": []})
    table = pd.concat(judged, ignore_index=True)
    usable: Any = table["reason"] == ""
    order = np.lexsort((table["memory_gib"], table["step_seconds"], ~usable))
    table = table.iloc[order].reset_index(drop=True)
    ranks = pd.array(np.arange(1, len(table) + 1), dtype="Int64")
    ranks[int(usable.sum()) :] = pd.NA
    table.insert(0, "rank", ranks)
    counted = {"virtual_pipeline", "data", "micro_batches", "fullest_stage"}
    return table.astype(dict.fromkeys(counted & set(table.columns), "Int64"))


def _rows(run: Run, group: Columns, gpu: Gpu, assumptions: Assumptions) -> "pd.DataFrame":
    """Layouts that the degrees allow: what they take, and the reason when that is too much."""
    import numpy as np
    import pandas as pd

    memory, time = taken(run, group, gpu, assumptions)
    micro_batches = micro_batches_of(group, run.batch_size)
    stops = (micro_batches % group.pipeline != 0) & (group.virtual_pipeline > 1)
    reasons = [
        cannot_interleave(count, group.pipeline) if stop else "" if fits else too_large(total, memory.usable)
        for stop, fits, total, count in zip(stops, memory.fits, memory.total, micro_batches, strict=True)
    ]
    seconds = time.total
    speed = _step_flops(run) / seconds / group.gpus
    columns = {name: getattr(group, name) for name in _DEGREES} | {
        "recompute": group.recompute,
        "data": data_replicas(group),
        "micro_batches": micro_batches,
        "memory_gib": memory.total / GIB,
        "states_gib": memory.states / GIB,
        "megatron_states_gib": megatron_state_bytes(run.model, group, sharded_optimizer=assumptions.sharded_optimizer)
        / GIB,
        "activations_gib": (memory.activations + memory.recomputed) / GIB,
        "logits_gib": memory.logits / GIB,
        "usable_gib": memory.usable / GIB,
        "fullest_stage": memory.stage + 1,
        "step_seconds": seconds,
        "days": seconds * run.steps / 86400,
        "tflops_per_gpu": speed / 1e12,
        "mfu": speed / gpu.peak_flops,
        **{f"seconds_{each.name}": getattr(time, each.name) for each in fields(StepTime)},
        "reason": np.array(reasons, dtype=object),
    }
    return pd.DataFrame(columns)


def _rejected_rows(rejected: list[Rejected]) -> "pd.DataFrame":
    """Layouts that the degrees rule out."""
    import pandas as pd

    names = [name for name in _DEGREES if name != "virtual_pipeline"]
    columns: dict[str, Any] = {name: [getattr(each.layout, name) for each in rejected] for name in names}
    columns |= {"memory_gib": float("nan"), "step_seconds": float("nan")}
    return pd.DataFrame(columns | {"reason": [each.reason for each in rejected]})


def _step_flops(run: Run) -> float:
    return float(run.model.flops_per_token(run.sequence_length) * run.batch_size * run.sequence_length)


def _time(candidate: Candidate) -> StepTime:
    if candidate.time is None:
        raise UserError(f"this layout cannot be used: {candidate.reason}.")
    return candidate.time
