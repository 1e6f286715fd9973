"""Every parallel layout of a run on a cluster, the feasible ones ranked by their step time."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pandas as pd

from fits.errors import UserError
from scaling.hardware import Gpu
from scaling.hardware import gpu as find_gpu
from scaling.layout.assumptions import Assumptions, usual_assumptions
from scaling.layout.memory import GIB, Memory, memory_of, states_of_even_stages
from scaling.layout.time import StepTime, step_time
from scaling.plan import Layout, TrainingPlan
from scaling.stacks.faults import faults
from scaling.stacks.run import Run, run_of

_MICRO_BATCHES = (1, 2, 4, 8)
_RECOMPUTE = ("none", "selective", "full")
_MOST_STAGES = 64
_VIRTUAL = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Candidate:
    """One layout: what it takes, or why it cannot be used."""

    layout: Layout
    reason: str = ""
    """Empty when it can be used."""
    memory: Memory | None = None
    time: StepTime | None = None

    @property
    def feasible(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Layouts:
    """All layouts of a run on a cluster: the feasible ones first, fastest first."""

    run: Run
    gpu_name: str
    gpu: Gpu
    gpus: int
    assumptions: Assumptions
    candidates: tuple[Candidate, ...]

    @property
    def feasible(self) -> list[Candidate]:
        return [each for each in self.candidates if each.feasible]

    @property
    def best(self) -> Candidate:
        """The fastest.

        Raises:
            UserError: none can be used; says what is short and by how much.
        """
        if self.candidates and self.candidates[0].feasible:
            return self.candidates[0]
        raise UserError(self._why_none())

    def days(self, candidate: Candidate) -> float:
        """Wall time of the whole run, without stops."""
        return _time(candidate).total * self.run.steps / 86400

    def flops_per_gpu(self, candidate: Candidate) -> float:
        """Model FLOP/s of one GPU, by the exact count with causal attention."""
        model, length = self.run.model, self.run.sequence_length
        spent = model.flops_per_token(length) * self.run.batch_size * length
        return float(spent / _time(candidate).total / self.gpus)

    def mfu(self, candidate: Candidate) -> float:
        """Model FLOP/s over the dense bf16 peak."""
        return self.flops_per_gpu(candidate) / self.gpu.peak_flops

    def table(self) -> pd.DataFrame:
        """One row a layout: degrees, then what it takes or why it fails."""
        rows = []
        for rank, each in enumerate(self.candidates, start=1):
            row = {"rank": rank if each.feasible else None, **each.layout.model_dump()}
            if each.memory:
                row |= {
                    "memory_gib": each.memory.total / GIB,
                    "states_gib": each.memory.states / GIB,
                    "states_of_even_stages_gib": states_of_even_stages(self.run.model, each.layout) / GIB,
                    "activations_gib": each.memory.activations / GIB,
                    "logits_gib": each.memory.logits / GIB,
                    "usable_gib": each.memory.usable / GIB,
                    "fullest_stage": each.memory.stage,
                }
            if each.time:
                row |= {
                    "step_seconds": each.time.total,
                    "days": self.days(each),
                    "tflops_per_gpu": self.flops_per_gpu(each) / 1e12,
                    "mfu": self.mfu(each),
                    **{f"seconds_{name}": value for name, value in each.time},
                }
            rows.append(row | {"reason": each.reason})
        table = pd.DataFrame(rows)
        return table.astype({"rank": "Int64"}) if len(table) else table

    def _why_none(self) -> str:
        """The nearest miss: the layout that needs the least memory, or the fault that stopped most."""
        model = self.run.model
        cluster = f"{self.gpus} {self.gpu_name}"
        sized = [each for each in self.candidates if each.memory]
        if not sized:
            reasons = pd.Series([each.reason for each in self.candidates]).value_counts()
            return f"no layout of {cluster} can be used; most fail because {reasons.index[0]}."
        least = min(sized, key=lambda each: _memory(each).total)
        memory = _memory(least)
        short = memory.total - memory.usable
        states = 18 * model.params_total / self.gpus
        return (
            f"{cluster} hold no layout of these {model.params_total / 1e9:.4g}B parameters: the leanest "
            f"({describe(least.layout)}) needs {memory.total / GIB:.4g} GiB a GPU, {short / GIB:.3g} GiB more than the "
            f"{memory.usable / GIB:.4g} GiB usable; weights, gradients and optimizer alone are {states / GIB:.4g} GiB "
            "a GPU when spread evenly. Take more GPUs, larger ones, or a smaller model."
        )


def search_layouts(
    plan: TrainingPlan, gpus: int, gpu: str, *, assumptions: Assumptions | None = None, everything: bool = True
) -> Layouts:
    """Every combination of degrees that makes up ``gpus``, judged for a plan.

    Args:
        gpus: number of accelerators.
        gpu: a name in ``hardware.yaml``.
        everything: keep those that cannot be used too, with the reason.

    Raises:
        UserError: the GPU is unknown, or the number makes no sense.
    """
    if gpus < 1:
        raise UserError(f"--gpus is {gpus}; give a number above 0.")
    figures, assumed = find_gpu(gpu), assumptions or usual_assumptions()
    run = run_of(plan)
    judged = [_judge(run, layout, figures, assumed) for layout in _layouts(run, gpus, figures)]
    chosen = [each for each in judged if everything or each.feasible]
    chosen.sort(key=lambda each: (not each.feasible, each.time.total if each.time else 0.0))
    return Layouts(run, gpu.lower(), figures, gpus, assumed, tuple(chosen))


def judge(run: Run, layout: Layout, gpu: str, *, assumptions: Assumptions | None = None) -> Candidate:
    """One layout: memory and time, or the reason why it cannot be used."""
    return _judge(run, layout, find_gpu(gpu), assumptions or usual_assumptions())


def describe(layout: Layout) -> str:
    """A layout in one short line, degrees of 1 left out: ``TP2 PP16 VP2 EP8``."""
    degrees = (
        ("TP", layout.tensor),
        ("PP", layout.pipeline),
        ("VP", layout.virtual_pipeline),
        ("EP", layout.expert),
        ("ETP", layout.expert_tensor),
        ("CP", layout.context),
    )
    named = [f"{name}{degree}" for name, degree in degrees if degree > 1]
    return " ".join([*named, f"micro-batch {layout.micro_batch_size}", f"recompute {layout.recompute}"])


def _layouts(run: Run, gpus: int, gpu: Gpu) -> Iterator[Layout]:
    """Degrees whose products divide the GPUs; tensor parallelism stays in a node."""
    model = run.model
    divisors = [degree for degree in range(1, gpus + 1) if gpus % degree == 0]
    inside = [degree for degree in divisors if degree <= gpu.gpus_per_node]
    stages = [degree for degree in divisors if degree <= min(_MOST_STAGES, model.num_layers)]
    experts = [degree for degree in divisors if model.is_moe and model.num_experts % degree == 0] or [1]
    contexts = [degree for degree in divisors if run.sequence_length % (2 * degree) == 0 and degree <= 16] or [1]
    for tensor, pipeline, expert, context in product(inside, stages, experts, contexts):
        if gpus % (tensor * pipeline * context):
            continue
        for expert_tensor in inside if model.is_moe else [1]:
            if expert_tensor > tensor or gpus % (expert * expert_tensor * pipeline):
                continue
            for virtual in _VIRTUAL if pipeline > 1 else (1,):
                if pipeline * virtual > model.num_layers:
                    continue
                for size, recompute in product(_MICRO_BATCHES, _RECOMPUTE):
                    yield Layout.model_construct(
                        gpus=gpus,
                        tensor=tensor,
                        pipeline=pipeline,
                        virtual_pipeline=virtual,
                        expert=expert,
                        expert_tensor=expert_tensor,
                        context=context,
                        micro_batch_size=size,
                        recompute=recompute,
                    )


def _judge(run: Run, layout: Layout, gpu: Gpu, assumptions: Assumptions) -> Candidate:
    for fault in faults(dataclasses.replace(run, layout=layout)):
        return Candidate(layout, fault)
    replicas = layout.gpus // (layout.tensor * layout.pipeline * layout.context)
    micro_batches = run.batch_size // (replicas * layout.micro_batch_size)
    if layout.virtual_pipeline > 1 and micro_batches % layout.pipeline:
        return Candidate(
            layout,
            f"{micro_batches} micro-batches are not a multiple of the {layout.pipeline} stages, as interleaving needs",
        )
    fp8 = run.precision == "fp8"
    memory = memory_of(
        run.model,
        layout,
        sequence_length=run.sequence_length,
        micro_batches=micro_batches,
        gpu_memory=gpu.memory_bytes,
        assumptions=assumptions,
        fp8=fp8,
    )
    if not memory.fits:
        short = (memory.total - memory.usable) / GIB
        reason = f"needs {memory.total / GIB:.4g} GiB, {short:.3g} GiB above what is usable"
        return Candidate(layout, reason, memory)
    time = step_time(
        run.model,
        layout,
        sequence_length=run.sequence_length,
        micro_batches=micro_batches,
        gpu=gpu,
        assumptions=assumptions,
        fp8=fp8,
    )
    return Candidate(layout, "", memory, time)


def _memory(candidate: Candidate) -> Memory:
    assert candidate.memory is not None
    return candidate.memory


def _time(candidate: Candidate) -> StepTime:
    assert candidate.time is not None
    return candidate.time
