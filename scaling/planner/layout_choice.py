"""The layout of a plan on its cluster, and giving way to a smaller model where none has room."""

from collections.abc import Callable

import numpy as np

from fits.errors import UserError
from scaling.cluster.layout.search import search_layouts
from scaling.plan import Cluster, TrainingPlan
from scaling.planner.constraints import KEPT
from scaling.planner.search import Search, search

_SMALLER = 0.93
"""Where no layout holds a shape, those above this share of its parameters are given up too."""


def with_layout(
    found: Search, cluster: Cluster, draft: Callable[[Search], TrainingPlan]
) -> tuple[Search, TrainingPlan]:
    """The best shape that some layout of the cluster holds, and its plan with the fastest layout.

    Raises:
        UserError: none does; says what the smallest one tried is short of.
    """
    while True:
        plan = draft(found)
        try:
            return found, _fastest(plan, cluster)
        except UserError as error:
            smaller = found.table.params_total < _SMALLER * plan.model.params_total
            if not (smaller & (found.candidates.verdict == KEPT)).any():
                raise UserError(str(error)) from None
        found = search(found.loss_model, found.candidates.among(np.flatnonzero(smaller)))


def _fastest(plan: TrainingPlan, cluster: Cluster) -> TrainingPlan:
    """The plan with its fastest layout; without the ramp where only the full batch divides over the ranks."""
    layouts = search_layouts(plan, cluster.gpus, cluster.gpu)
    if plan.batch_ramp and not len(layouts.feasible):
        plan = plan.model_copy(update={"batch_ramp": None})
        layouts = search_layouts(plan, cluster.gpus, cluster.gpu)
    return layouts.in_plan(plan, layouts.best)
