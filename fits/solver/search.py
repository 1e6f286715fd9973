"""The global optimum without a user's grid.

Many quasi-random starts are screened with the coefficients that enter linearly already solved for (variable
projection); the best descend by reweighted least squares and then by Newton until the gradient vanishes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fits.laws.derivatives import differentiate
from fits.laws.expression import Node, Operation
from fits.laws.law import Parameter
from fits.solver.coordinates import Coordinates
from fits.solver.model import PowerSum
from fits.solver.newton import Minima, minimise, solve
from fits.solver.problem import Problem

_FINALISTS = 4
_MORE_ROUNDS = 3
_BEYOND = 10.0  # how far above its typical range a positive parameter is looked for
_SAMPLE = 2000  # rows used to look for the basin; the descent ends on all of them
_RESAMPLE_TOLERANCE = 1e-10  # gain predicted before the last step; the step leaves far less
_SAME = 1e-6  # objectives this close, relatively, are one basin


@dataclass(frozen=True)
class Optimum:
    """The best minimum found, and how the search went."""

    u: np.ndarray
    value: float
    met: bool
    """The last Newton step promised less than the tolerance."""
    start: np.ndarray
    screened: int
    starts: int
    starts_at_best: int


@dataclass(frozen=True)
class Screen:
    """What a search needs beside the problem: the formula, the data and the parameters' typical ranges."""

    node: Node
    data: Mapping[str, np.ndarray]
    parameters: Sequence[Parameter]
    loss: np.ndarray
    weights: np.ndarray


def find_optimum(problem: Problem, screen: Screen, *, starts: np.ndarray | None, seed: int) -> Optimum:
    """The best of all descents.

    Args:
        problem: on all rows.
        screen: the same data for the screening.
        starts: parameter vectors [S, p] to begin from as well, or None.
        seed: of the quasi-random starts and of the rows used to look for the basin.
    """
    rng = np.random.default_rng(seed)
    chosen: slice | np.ndarray = slice(None)
    if problem.length > _SAMPLE:
        chosen = np.sort(rng.choice(problem.length, _SAMPLE, replace=False))
    small = problem.rows(chosen) if problem.length > _SAMPLE else problem
    candidates, screened, keep = _candidates(screen, chosen, small, rng)
    if starts is not None:
        candidates = np.concatenate([problem.coordinates.solver(np.atleast_2d(starts)), candidates])
        keep += len(np.atleast_2d(starts))
    minima = _descend_far(small, candidates[:keep])
    for _ in range(_MORE_ROUNDS):  # a best that only one descent found may not be the last word
        done = len(minima.value)
        if _at_best(minima) > 1 or done >= len(candidates):
            break
        more = _descend_far(small, candidates[done : done + keep])
        minima = Minima(*(np.concatenate(pair) for pair in zip(_fields(minima), _fields(more), strict=True)))
    best = int(np.argmin(minima.value))
    u, value, met = minima.u[best], float(minima.value[best]), bool(minima.met[best])
    if small is not problem:
        finish = _follow(problem, u[None])
        u, value, met = finish.u[0], float(finish.value[0]), bool(finish.met[0])
    return Optimum(u, value, met, candidates[best], screened, len(minima.value), _at_best(minima))


def _fields(minima: Minima) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return minima.u, minima.value, minima.met


def _at_best(minima: Minima) -> int:
    """How many descents ended in the best basin."""
    return int((minima.value <= minima.value.min() * (1 + _SAME) + 1e-300).sum())


def _descend_far(problem: Problem, begun: np.ndarray) -> Minima:
    """From starts that may be far away: reweighted least squares, then Newton."""
    first = problem.with_objective(problem.objective.path()[0])
    rough = minimise(first, begun, curvature="reweighted", iterations=30, damping=1e-3, tolerance=1e-6)
    minima = _follow(problem, rough.u)
    ahead = np.argsort(minima.value)[:_FINALISTS]
    if not minima.met[ahead].all():  # a long curved valley, or no curvature: only the best go on
        # Between runs that lie far apart a sharp objective is straight; reweighting has a slope and a step there too.
        nudged = minimise(problem, minima.u[ahead], curvature="reweighted", iterations=100, damping=1e-6)
        further = minimise(problem, nudged.u, iterations=2000)
        minima.u[ahead], minima.value[ahead], minima.met[ahead] = further.u, further.value, further.met
    return minima


def _follow(problem: Problem, u: np.ndarray) -> Minima:
    """Newton through the objective's easier versions to the objective itself."""
    minima = Minima(u, np.full(len(u), np.inf), np.zeros(len(u), dtype=bool))
    for objective in problem.objective.path():
        minima = minimise(problem.with_objective(objective), minima.u, iterations=200)
    return minima


def descend(problem: Problem, u: np.ndarray) -> Minima:
    """Newton from starts near their optimum, each member with its own weights or target (resamples)."""
    path = problem.objective.path()
    minima = Minima(u, np.zeros(len(u)), np.zeros(len(u), dtype=bool))
    for objective in path[-4:]:
        minima = minimise(problem.with_objective(objective), minima.u, tolerance=_RESAMPLE_TOLERANCE)
    return minima


def _candidates(
    screen: Screen, chosen: slice | np.ndarray, problem: Problem, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """Starts in solver coordinates, best first; how many were screened; how many are worth a descent."""
    data = {name: column[chosen] for name, column in screen.data.items()}
    loss, weights = screen.loss[chosen], screen.weights[chosen]
    names = [parameter.name for parameter in screen.parameters]
    logarithm = Operation("log", (screen.node,))
    coordinates = problem.coordinates
    probe = _typical(screen.parameters, 3, rng)
    plain = _affine(screen.node, data, names, probe, None)
    in_logs = _affine(logarithm, data, names, probe, coordinates) if (loss > 0).all() else []
    use_logs = len(in_logs) > len(plain)
    linear = in_logs if use_logs else plain
    curved = len(names) - len(linear)
    count = 1 if curved == 0 else min(32 * 2**curved, 1024)
    points = _typical(screen.parameters, count, rng)
    u = coordinates.solver(points)
    if linear:
        node = logarithm if use_logs else screen.node
        target = np.log(loss) if use_logs else loss
        scale = weights if use_logs or not problem.objective.in_logs else weights / loss**2
        solved = np.empty_like(u)
        step = max(1, (1 << 18) // len(loss))
        for begin in range(0, count, step):
            part = slice(begin, begin + step)
            solved[part] = _project(node, data, names, points[part], u[part], linear, target, scale, problem, use_logs)
        u = solved
    value = problem.values(u)
    order = np.argsort(value)
    u = u[order[np.isfinite(value[order])]]
    if len(u) == 0:  # nothing typical fits these data: begin from the typical points themselves
        u = coordinates.solver(points)
    few = curved <= 2 and isinstance(problem.model, PowerSum)
    return u, count, min(len(u), 8 if few else 4 + 6 * curved)


def _typical(parameters: Sequence[Parameter], count: int, rng: np.random.Generator) -> np.ndarray:
    """Quasi-random parameter vectors [count, p] within the typical ranges, logarithmic where these are wide.

    Every eighth vector reaches beyond them, for runs that are not typical.
    """
    unit = _evenly(count, len(parameters), rng)
    columns = []
    for index, parameter in enumerate(parameters):
        low, high = parameter.typical
        if low > 0 and high / low > 8:
            column = low * (high / low) ** unit[:, index]
        else:
            column = low + (high - low) * unit[:, index]
        if parameter.domain == "positive":
            column[7::8] = low * (_BEYOND * high / low) ** unit[7::8, index]
        columns.append(column)
    return np.stack(columns, axis=1)


def _evenly(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Points [count, size] that fill the unit cube evenly: Roberts' additive sequence from a random origin."""
    root = 1.5
    for _ in range(60):  # the real root of x ** (size + 1) = x + 1
        root = (1 + root) ** (1 / (size + 1))
    steps = root ** -np.arange(1.0, size + 1)
    return (rng.random(size) + np.arange(1, count + 1)[:, None] * steps) % 1.0


def _affine(
    node: Node, data: Mapping, names: list[str], probe: np.ndarray, coordinates: Coordinates | None
) -> list[int]:
    """Parameters in which the formula is jointly affine, found from its exact second derivatives.

    With coordinates, it is affinity in the solver coordinates that counts.
    """
    values = {**data, **{name: probe[:, index : index + 1] for index, name in enumerate(names)}}
    jet = differentiate(node, values, names)
    slopes = np.ones_like(probe)
    bends = np.zeros_like(probe)
    if coordinates is not None:
        plain = coordinates.of_parameters
        slopes, bends = plain.slopes(plain.solver(probe))
    size = {i: np.abs(slopes[:, i : i + 1] * term).max() for i, term in jet.first.items()}
    curved = np.zeros((len(names), len(names)), dtype=bool)
    for i in range(len(names)):
        for j in range(i, len(names)):
            second = jet.second.get((i, j), 0.0) * slopes[:, i : i + 1] * slopes[:, j : j + 1]
            if i == j and i in jet.first:
                second = second + jet.first[i] * bends[:, i : i + 1]
            limit = 1e-9 * max(size.get(i, 0.0), size.get(j, 0.0), 1e-300)
            curved[i, j] = curved[j, i] = not np.abs(second).max() <= limit
    chosen: list[int] = []
    for i in np.argsort(curved.sum(axis=0), kind="stable"):
        if not curved[i, [*chosen, i]].any():
            chosen.append(int(i))
    return sorted(chosen)


def _project(
    node: Node,
    data: Mapping,
    names: list[str],
    points: np.ndarray,
    u: np.ndarray,
    linear: list[int],
    target: np.ndarray,
    scale: np.ndarray,
    problem: Problem,
    use_logs: bool,
) -> np.ndarray:
    """Solve for the linear coefficients by weighted least squares, the others as given; solver coordinates [S, p]."""
    values = {**data, **{name: points[:, index : index + 1] for index, name in enumerate(names)}}
    jet = differentiate(node, values, names)
    shape = (len(points), len(target))
    coordinates = problem.coordinates
    now = u if use_logs else points
    slope = np.ones_like(points)
    if use_logs:
        slope = coordinates.of_parameters.slopes(u)[0]
    basis = np.stack([np.broadcast_to(jet.first.get(i, 0.0) * slope[:, i : i + 1], shape) for i in linear], axis=2)
    with np.errstate(all="ignore"):
        rest = target - (np.broadcast_to(jet.value, shape) - np.einsum("snq,sq->sn", basis, now[:, linear]))
        gram = np.matmul(basis.transpose(0, 2, 1), basis * scale[:, None])
        right = np.einsum("snq,sn->sq", basis, rest * scale)
    positive = np.array([not use_logs and coordinates.domains[i] != "real" for i in linear])
    coefficients = _least_squares(gram, right, positive)
    result = now.copy()
    result[:, linear] = coefficients
    if use_logs:
        return result
    least = 1e-6 * np.abs(points)[:, linear]
    result[:, linear] = np.where(positive, np.maximum(coefficients, least), coefficients)
    return coordinates.solver(result)


def _least_squares(gram: np.ndarray, right: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Solve normal equations [S, q, q], with some coefficients kept from going below zero (coordinate descent)."""
    size = gram.shape[1]
    index = np.arange(size)
    diagonal = np.maximum(gram[:, index, index], 1e-300)
    scale = 1 / np.sqrt(diagonal)
    gram = np.nan_to_num(gram * scale[:, :, None] * scale[:, None, :])
    right = np.nan_to_num(right * scale)
    x, _ = solve(gram, right, np.full(len(gram), 1e-12))
    below = (positive & (x < 0)).any(axis=1)
    if below.any():
        part, g, r = np.maximum(x[below], 0.0), gram[below], right[below]
        for _ in range(40):
            for k in range(size):
                new = part[:, k] + r[:, k] - np.einsum("sq,sq->s", g[:, k], part)
                part[:, k] = np.maximum(new, 0.0) if positive[k] else new
        x[below] = part
    return x * scale
