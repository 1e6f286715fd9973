"""Parameters fixed, tied, bounded or given a start."""

from collections.abc import Mapping, Sequence

import numpy as np

from fits.errors import UserError, nearest
from fits.laws.expression import Name, Node, Number, names, simplified, substitute
from fits.laws.law import Domain, Law, Parameter
from fits.tables.binding import Bound


def free_parameters(
    law: Law, fix: dict[str, float], tie: dict[str, str], bounds: dict[str, Domain], bound: Bound
) -> tuple[Node, list[Parameter], dict[str, float], dict[str, str]]:
    """The formula with fixed and tied parameters put in, the parameters left to fit, and both requests back.

    Raises:
        UserError: a name is no parameter, the requests contradict each other, or nothing is left to fit.
    """
    for name in (*fix, *tie, *tie.values(), *bounds):
        law.parameter(name)
    for name, value in fix.items():
        if not np.isfinite(value):
            raise UserError(f"Parameter '{name}' is fixed at {value}; give a finite number.")
        _check_domain(f"Parameter '{name}'", bounds.get(name, law.parameter(name).domain), value, edge=True)
        if name in tie or name in tie.values():
            raise UserError(f"Parameter '{name}' is both fixed and tied; choose one.")
    for name, other in tie.items():
        if other in tie:
            raise UserError(f"Parameter '{name}' is tied to '{other}', which is itself tied; tie both to one.")
    replacements: dict[str, Node] = {name: Number(float(value)) for name, value in fix.items()}
    replacements |= {name: Name(other) for name, other in tie.items()}
    node = simplified(substitute(law.expression, replacements))
    used = set(names(node))
    free = []
    for parameter in law.parameters:
        if parameter.name in fix or parameter.name in tie:
            continue
        if parameter.name not in used:
            raise UserError(f"Parameter '{parameter.name}' no longer matters once the others are fixed; fix it too.")
        domain = bounds.get(parameter.name, parameter.domain)
        typical = parameter.typical
        if isinstance(domain, tuple):
            if not domain[0] < domain[1]:
                raise UserError(f"Bounds of '{parameter.name}' are {domain}; the first must be below the second.")
            inside = (max(typical[0], domain[0]), min(typical[1], domain[1]))
            typical = inside if inside[0] < inside[1] else domain
        free.append(Parameter(parameter.name, parameter.meaning, domain, typical))
    if not free:
        raise UserError("Every parameter is fixed; leave at least one to fit.")
    floor = fix.get("E", -np.inf) if law.response in ("loss", "bits_per_byte") else -np.inf
    if law.parameters[0].name == "E" and bound.loss.min() <= floor:
        raise UserError(
            f"The lowest loss, {bound.loss.min():g}, is not above the fixed floor E={floor:g}; lower E or free it."
        )
    return node, free, fix, tie


def start_vectors(
    starts: Mapping[str, float] | Sequence[Mapping[str, float]] | None, free: list[Parameter]
) -> np.ndarray | None:
    """Parameter vectors [S, p] to begin from; what a start leaves out is taken from the middle of its typical range.

    Raises:
        UserError: a start names something that is not a free parameter, or lies outside its domain.
    """
    if not starts:
        return None
    given = [starts] if isinstance(starts, Mapping) else list(starts)
    known = [parameter.name for parameter in free]
    rows = []
    for start in given:
        for name in start:
            if name not in known:
                raise UserError(f"Start '{name}' is no free parameter{nearest(name, known)}; free: {', '.join(known)}.")
            _check_domain(f"Start '{name}'", free[known.index(name)].domain, start[name], edge=False)
        rows.append([start.get(parameter.name, _middle(parameter)) for parameter in free])
    return np.array(rows)


def _check_domain(what: str, domain: Domain, value: float, *, edge: bool) -> None:
    """A value must lie in its domain, or at the lower ``edge`` of it (a term that is switched off)."""
    low, high = {"positive": (0.0, np.inf), "real": (-np.inf, np.inf)}[domain] if isinstance(domain, str) else domain
    if not (low < value < high or (edge and value == low)):
        raise UserError(f"{what} is {value:g}; it must lie between {low:g} and {high:g}.")


def _middle(parameter: Parameter) -> float:
    low, high = parameter.typical
    return float(np.sqrt(low * high)) if low > 0 else 0.5 * (low + high)
