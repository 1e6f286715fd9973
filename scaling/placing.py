"""The layout of a plan on its cluster, and giving way to a smaller model where none has room."""

from collections.abc import Callable

import numpy as np

from fits.errors import UserError
from scaling.layout.memory import GIB
from scaling.layout.search import Candidate, Layouts, search_layouts
from scaling.limits import KEPT
from scaling.plan import BatchRamp, Cluster, Layout, LayoutEstimate, TrainingPlan
from scaling.search import Search, search

_SMALLER = 0.93
"""Where no layout holds a shape, those above this share of its parameters are given up too."""


def placed(found: Search, cluster: Cluster, draft: Callable[[Search], TrainingPlan]) -> tuple[Search, TrainingPlan]:
    """The best shape that some layout of the cluster holds, and its plan with the fastest layout.

    Raises:
        UserError: none does; says what the smallest one tried is short of.
    """
    while True:
        plan = draft(found)
        layouts = search_layouts(plan, cluster.gpus, cluster.gpu)
        try:
            return found, _with_layout(plan, layouts, layouts.best)
        except UserError as error:
            smaller = found.table.params_total < _SMALLER * plan.model.params_total
            if not (smaller & (found.candidates.verdict == KEPT)).any():
                raise UserError(str(error)) from None
        found = search(found.pricing, found.candidates.among(np.flatnonzero(smaller)))


def _with_layout(plan: TrainingPlan, layouts: Layouts, best: Candidate) -> TrainingPlan:
    assert best.memory is not None and best.time is not None
    estimate = LayoutEstimate(
        memory_gib=float(best.memory.total / GIB),
        step_seconds=float(best.time.total),
        days=float(layouts.days(best)),
        tflops_per_gpu=float(layouts.flops_per_gpu(best) / 1e12),
    )
    ramp = plan.batch_ramp if _divides(plan.batch_ramp, best.layout, plan.sequence_length) else None
    return plan.model_copy(update={"layout": best.layout, "layout_estimate": estimate, "batch_ramp": ramp})


def _divides(ramp: BatchRamp | None, layout: Layout, sequence_length: int) -> bool:
    """Whether every step of the ramp divides over the data-parallel ranks."""
    if ramp is None:
        return False
    replicas = layout.gpus // (layout.tensor * layout.pipeline * layout.context)
    together = replicas * layout.micro_batch_size * sequence_length
    return ramp.start_batch_tokens % together == 0 and ramp.increment_tokens % together == 0
