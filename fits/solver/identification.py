"""What the data cannot tell apart, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fits.solver.problem import Problem

_LOST = 1e-7  # relative singular value below which a combination of parameters is not determined
_NO_EFFECT = 1e-3  # of the residual scale


@dataclass(frozen=True)
class Identification:
    """Condition number of the scaled Jacobian, parameters without effect, and undetermined combinations."""

    condition_number: float
    no_effect: list[str]
    undetermined: list[list[str]]


def identify(problem: Problem, u: np.ndarray, names: Sequence[str], residual_scale: float) -> Identification:
    """Look at the Jacobian of the responses by the solver coordinates, its columns scaled to unit length."""
    chosen = slice(None) if problem.length <= 20000 else slice(None, None, problem.length // 20000 + 1)
    part = problem.rows(chosen) if problem.length > 20000 else problem
    jacobian = part.jacobian(u) * np.sqrt(part.weights)[:, None]
    reach = np.abs(jacobian).max(axis=0)
    idle = [name for name, each in zip(names, reach, strict=True) if not each > _NO_EFFECT * residual_scale]
    kept = [index for index, name in enumerate(names) if name not in idle]
    if not kept:
        return Identification(np.inf, idle, [])
    scaled = jacobian[:, kept] / np.linalg.norm(jacobian[:, kept], axis=0)
    _, values, right = np.linalg.svd(scaled, full_matrices=False)
    groups = []
    for value, vector in zip(values, right, strict=True):
        if value <= _LOST * values[0]:
            strong = np.abs(vector) > 0.1 * np.abs(vector).max()
            groups.append([names[kept[index]] for index in np.flatnonzero(strong)])
    smallest = values[-1] if len(values) == len(kept) and len(scaled) >= len(kept) else 0.0
    condition = float(values[0] / smallest) if smallest > 0 else np.inf
    return Identification(condition, idle, groups)
