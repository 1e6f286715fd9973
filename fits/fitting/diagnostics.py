"""Is the fit to be believed: the proof of convergence, and warnings in plain words."""

import numpy as np

from fits.fitting.result import Convergence, Estimate
from fits.laws.law import Law, Parameter
from fits.solver.bootstrap import Kind
from fits.solver.identification import Identification
from fits.solver.problem import Problem
from fits.solver.search import Optimum

_WIDE = 30.0  # a positive parameter whose interval spans this factor is hardly determined


def convergence_of(problem: Problem, optimum: Optimum, found: Identification, free: list[Parameter]) -> Convergence:
    """The facts of the search and the gradient where it ended."""
    _, gradient, _ = problem.derivatives(optimum.u[None], "newton")
    norm = float(np.abs(gradient).max())
    moved = np.abs(optimum.u - optimum.start)
    finite = np.isfinite(found.condition_number)
    values = problem.coordinates.parameters(optimum.u)
    ends = [each.name for each, value in zip(free, values, strict=True) if _at_end(each, value)]
    return Convergence(
        converged=optimum.met or bool(norm <= 1e-6 * optimum.value + 1e-20),
        gradient_norm=norm,
        screened=optimum.screened,
        starts=optimum.starts,
        starts_at_best=optimum.starts_at_best,
        distance_from_start=float(np.linalg.norm(moved)),
        condition_number=float(found.condition_number) if finite else None,
        at_bound=ends + [name for name in found.no_effect if name not in ends],
        at_start=[each.name for each, distance in zip(free, moved, strict=True) if distance < 1e-9],
    )


def _at_end(parameter: Parameter, value: float) -> bool:
    if not isinstance(parameter.domain, tuple):
        return False
    low, high = parameter.domain
    return bool(min(value - low, high - value) < 1e-3 * (high - low))


def warnings_about(
    law: Law,
    convergence: Convergence,
    found: Identification,
    table: dict[str, Estimate],
    free: list[Parameter],
    rows: int,
    kind: Kind,
) -> list[str]:
    """What a reader must know before using the fit, each with its reason and its mend."""
    notes = []
    if not convergence.converged:
        notes.append(
            f"The fit has not converged (gradient {convergence.gradient_norm:.1e}); try other starts or objectives."
        )
    if convergence.starts_at_best == 1 and convergence.starts > 3:
        notes.append(
            f"Only 1 of {convergence.starts} descents reached the best minimum; another may exist; give starts."
        )
    bounds = {each.name: each for each in free}
    for name in convergence.at_bound:
        value = table[name].value
        if _at_end(bounds[name], value):
            notes.append(f"{name} is at its bound ({value:.4g}); the runs do not determine it. Fix it or add runs.")
        else:
            notes.append(f"{name} has no effect at the optimum (its term vanished); fix it or choose a law without it.")
    for group in found.undetermined:
        if len(group) == 1:
            notes.append(f"{group[0]} is not determined by these runs; fix it.")
        else:
            notes.append(
                f"{', '.join(group[:-1])} and {group[-1]} trade off along a line and are not determined one by one; "
                f"fix one or add runs that vary what they multiply."
            )
    named = {*convergence.at_bound, *(name for group in found.undetermined for name in group)}
    for parameter in free:
        each = table[parameter.name]
        if parameter.domain != "positive" or parameter.name in named or each.low <= 0:
            continue
        if each.high / each.low > _WIDE:
            notes.append(
                f"{parameter.name} is hardly determined: its interval spans a factor of {each.high / each.low:.2g}; "
                "add runs over a wider range or fix it."
            )
    if kind == "pairs" and rows < 3 * len(free):
        notes.append(
            f"{rows} runs are few for {len(free)} parameters; intervals from redrawn runs are unreliable here, "
            "use the residual bootstrap."
        )
    if rows == len(free):
        notes.append("There are as many runs as parameters: the law passes through every run and nothing is tested.")
    return notes
