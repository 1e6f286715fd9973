"""Fit a law to a table of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from fits.errors import UserError, check_level, nearest
from fits.fitting.diagnostics import convergence_of, warnings_about
from fits.fitting.parameter_constraints import free_parameters, start_vectors
from fits.fitting.result import (
    BootstrapRecord,
    DataRecord,
    Fit,
    ObjectiveRecord,
    ParameterRecord,
    VariableRecord,
    estimates,
)
from fits.fitting.row_checks import check_rows, neutral_values
from fits.laws import get_law
from fits.laws.expression import names, parse
from fits.laws.law import Domain, Law
from fits.solver.bootstrap import Kind
from fits.solver.bootstrap import bootstrap as resample
from fits.solver.coordinates import Coordinates
from fits.solver.identification import identify
from fits.solver.model import bind as bind_model
from fits.solver.objective import make_objective
from fits.solver.problem import Problem
from fits.solver.search import Screen, find_optimum
from fits.tables.binding import bind_table, meanings_of, shared_settings, without_effect
from fits.tables.loss_units import unit_of_loss
from fits.tables.meaning import Meaning
from fits.tables.settings import Settings

_ROWS_FOR_REFITS = 50_000
_RUNS_PER_PARAMETER = 8


def fit(
    law: Law | str,
    data: pd.DataFrame | Mapping[str, Any],
    *,
    loss: str | None = None,
    bind: Mapping[str, str] | None = None,
    means: Mapping[str, str] | None = None,
    objective: str = "log-huber",
    delta: float = 1e-3,
    fix: Mapping[str, float] | None = None,
    tie: Mapping[str, str] | None = None,
    bounds: Mapping[str, Domain] | None = None,
    weights: str | np.ndarray | None = None,
    cluster: str | np.ndarray | None = None,
    bootstrap: int = 1000,
    bootstrap_kind: Kind | None = None,
    seed: int = 0,
    level: float = 0.95,
    starts: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    duplicates: Literal["refuse", "keep"] = "refuse",
    source: str | Path | None = None,
) -> Fit:
    """Fit a law to runs: global optimum, convergence proved, intervals by bootstrap.

    Args:
        law: a law or the name of one.
        data: a run table or a mapping of columns. Rows whose ``status`` is not ``done`` are left out.
        loss: column or expression to fit; the law's own response column unless given (also as ``bind["loss"]``).
        bind: variable -> column or expression; the law's own columns unless given.
        means: variable -> what it means to a plan, an expression over ``fits.tables.meaning.PLAN_COLUMNS``; read from
            the law and the columns' names unless given. ``loss`` may be ``loss`` (nats a token) or ``bits_per_byte``.
        objective: ``log-huber``, ``huber``, ``log-least-squares``, ``least-squares``, ``log-lad``, ``lad``,
            ``log-asymmetric`` or ``asymmetric``; those with ``log-`` take residuals of logarithms. Summed over runs.
        delta: where the Huber penalty turns linear.
        fix: parameter -> value.
        tie: parameter -> the parameter it must equal.
        bounds: parameter -> domain instead of the law's.
        weights: column, expression or array of row weights.
        cluster: column or array; resamples draw whole clusters.
        bootstrap: resamples for the intervals; 0 for none.
        bootstrap_kind: ``pairs``, ``cluster``, ``wild``, ``residual`` or ``normal``; chosen from the number of runs
            unless given.
        seed: of the search and the bootstrap.
        level: of the intervals.
        starts: parameter vectors to begin from as well.
        duplicates: what to do with rows alike in every column.
        source: where the table came from, for messages and the record.

    Raises:
        UserError: the table, the binding or the request is at fault, in one sentence.
    """
    law = get_law(law) if isinstance(law, str) else law
    check_level(level)
    for name, value in {"bootstrap": bootstrap, "seed": seed}.items():
        if value < 0:
            raise UserError(f"{name} is {value}; it must be 0 or more.")
    goal = make_objective(objective, delta)
    bind, fix, means = dict(bind or {}), dict(fix or {}), dict(means or {})
    columns = data.columns if isinstance(data, pd.DataFrame) else pd.Index(list(data))
    idle = without_effect(law, fix, bind, columns)
    bind |= idle
    bound = bind_table(
        law, data, loss=loss, bind=bind, weights=weights, cluster=cluster, duplicates=duplicates, source=source
    )
    node, free, fixed, tied = free_parameters(law, fix, dict(tie or {}), dict(bounds or {}), bound)
    # What a term of a user's own formula is for, only the user knows: there the fix is proposed, not made.
    neutral = {} if law.source == "given" else neutral_values(law, bound, node, free)
    if neutral:
        for values in neutral.values():
            fix |= values
        node, free, fixed, tied = free_parameters(law, fix, dict(tie or {}), dict(bounds or {}), bound)
    unit, unit_note = unit_of_loss(law, bound.loss_from, means.pop("loss", None))
    meanings = meanings_of(law, bound, means, idle)
    settings = shared_settings(bound, meanings)
    check_rows(law, bound, node, free, goal.in_logs, source or "table")
    domains: tuple[Domain, ...] = tuple(parameter.domain for parameter in free)
    positive = [parameter.name for parameter in free if parameter.domain == "positive"]
    free_names = [parameter.name for parameter in free]
    model = bind_model(node, bound.variables, free_names, positive)
    coordinates = Coordinates(domains, model.logarithmic)
    problem = Problem(model, coordinates, goal, goal.response(bound.loss), bound.weights)
    screen = Screen(node, bound.variables, free, bound.loss, bound.weights)
    optimum = find_optimum(problem, screen, starts=start_vectors(starts, free), seed=seed)
    if not np.isfinite(optimum.value):
        raise UserError(
            f"Law '{law.name}' gives no finite prediction on these runs from any start; check the binding of "
            f"{', '.join(law.variable_names)} or give a start."
        )
    residual = problem.target - goal.response(problem.predictions(optimum.u))
    freedom = max(len(residual) - len(free), 1)
    residual_scale = float(np.sqrt((residual**2).sum() / freedom))
    found = identify(problem, optimum.u, free_names, residual_scale)
    kind, reason = _bootstrap_kind(bootstrap_kind, len(residual), len(free), bound.clusters is not None)
    drawn = resample(problem, optimum.u, kind, bootstrap, bound.clusters, seed)
    every, draws = _expand(law, coordinates, optimum.u, drawn, free_names, fixed, tied)
    how = {name: "fixed" if name in fixed else "tied" if name in tied else "fitted" for name in every}
    table = estimates(law.parameter_names, every, draws, level, how)
    convergence = convergence_of(problem, optimum, found, free)
    notes = [
        *bound.notes,
        *(_held(name, values, bound.variables[name][0]) for name, values in neutral.items()),
        *(_of_the_plan(law, meanings, settings)),
        *unit_note,
        *warnings_about(law, convergence, found, table, free, len(residual), kind),
    ]
    return Fit(
        law=law.name,
        formula=law.formula,
        definitions=dict(law.definitions),
        response=law.response,
        unit=unit,
        source=law.source,
        variables=[
            VariableRecord(
                name=variable.name,
                meaning=meanings[variable.name].text,
                means=meanings[variable.name].expression,
                bound_to=bound.bound_to[variable.name],
                low=bound.ranges[variable.name][0],
                high=bound.ranges[variable.name][1],
            )
            for variable in law.variables
        ],
        parameter_records=[
            ParameterRecord(name=each.name, meaning=each.meaning, domain=each.domain) for each in law.parameters
        ],
        objective=ObjectiveRecord(
            name=goal.name, delta=goal.delta if np.isfinite(goal.delta) else None, value=optimum.value
        ),
        n_runs=len(residual),
        level=level,
        parameters=table,
        ranges=bound.ranges,
        constants=settings.constants,
        commonest=settings.commonest,
        bytes_per_token=settings.bytes_per_token,
        residual_scale=residual_scale,
        convergence=convergence,
        bootstrap=BootstrapRecord(
            kind=kind, requested=bootstrap, failed=bootstrap - len(draws), seed=seed, reason=reason
        ),
        data=DataRecord(
            path=None if source is None else str(source),
            loss=bound.loss_from,
            rows=len(residual),
            sha256=bound.digest(),
        ),
        warnings=notes,
        draws=draws,
    )


def _held(name: str, fixed: Mapping[str, float], value: float) -> str:
    each = " and ".join(f"{parameter}={number:g}" for parameter, number in fixed.items())
    return f"{name} is {value:g} on every row, so these runs cannot tell its effect: {each} is fixed, as --fix would."


def _of_the_plan(law: Law, meanings: Mapping[str, Meaning], settings: Settings) -> list[str]:
    """What a plan by this law would have to know: doubtful meanings, and settings that vary unseen."""
    if law.response not in ("loss", "bits_per_byte"):
        return []
    expressions = [parse(each.expression) for each in meanings.values() if each.expression]
    seen = {name for expression in expressions for name in names(expression)}
    if seen & {"activation_ratio", "params_total", "params_total_non_embedding"}:
        seen |= {"num_experts", "experts_per_token", "num_shared_experts"}
    asked = [each.question for each in meanings.values() if each.question]
    if "train_bytes" in seen and not settings.bytes_per_token:
        asked.append(
            "the law counts data in bytes, and the table gives no tokens and vocabulary beside them: 'scaling plan' "
            "will ask how many bytes a token has (--bytes-per-token or --vocab-study)."
        )
    return [*asked, *(note for name, note in settings.notes.items() if name not in seen)]


def _bootstrap_kind(asked: Kind | None, rows: int, free: int, clustered: bool) -> tuple[Kind, str]:
    if asked is not None:
        known = get_args(Kind)
        if asked not in known:
            raise UserError(
                f"There is no bootstrap '{asked}'{nearest(asked, known)}; choose one of {', '.join(known)}."
            )
        if asked == "cluster" and not clustered:
            raise UserError("The cluster bootstrap needs a cluster column; name one.")
        return asked, "as asked"
    if clustered:
        return "cluster", "runs in one cluster share their noise"
    if rows > _ROWS_FOR_REFITS:
        return "normal", f"above {_ROWS_FOR_REFITS} rows refits agree with the sandwich covariance"
    if rows < _RUNS_PER_PARAMETER * free:
        # Measured on 24 simulated runs and 7 parameters: redrawn runs cover too much with sharp objectives or not at
        # all when a resample loses a parameter; wild signs keep the zero residuals of a sharp objective at zero.
        return "residual", (
            f"below {_RUNS_PER_PARAMETER} runs a parameter, redrawn runs often leave parameters undetermined"
        )
    return "pairs", f"at least {_RUNS_PER_PARAMETER} runs a parameter"


def _expand(
    law: Law,
    coordinates: Coordinates,
    u: np.ndarray,
    drawn: np.ndarray,
    free: list[str],
    fixed: dict[str, float],
    tied: dict[str, str],
) -> tuple[dict[str, float], np.ndarray]:
    """All of the law's parameters, fixed and tied ones in, for the optimum and for every draw.

    Raises:
        UserError: a parameter ran off to infinity.
    """
    with np.errstate(over="ignore"):
        best = dict(zip(free, coordinates.parameters(u).tolist(), strict=True))
        draws = coordinates.parameters(drawn)
    for name, value in best.items():
        if not np.isfinite(value):
            raise UserError(
                f"Law '{law.name}' fits these runs best with {name} at infinity: they do not determine it; "
                f"fix a parameter (fix={{'{name}': ...}}, --fix on the command line) or add runs over a wider range."
            )
    draws = draws[np.isfinite(draws).all(axis=1)]
    values, columns = {}, []
    for name in law.parameter_names:
        if name in fixed:
            values[name] = float(fixed[name])
            columns.append(np.full(len(draws), values[name]))
        else:
            source = tied.get(name, name)
            values[name] = best[source]
            columns.append(draws[:, free.index(source)])
    return values, np.stack(columns, axis=1)
