"""Which runs to buy next: those of a design that narrow the decision at hand most for their cost, by the runs known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import fits
from fits.decisions.next_runs import choose_runs, decision_at
from fits.errors import UserError
from fits.tables.runs import column_values, usable_runs
from trainer_small.config import RunSpec
from trainer_small.designs.blocks import Design, find_design
from trainer_small.designs.design import candidate_runs
from trainer_small.designs.recipe import Recipe
from trainer_small.sweeps.sweep import Sweep
from trainer_small.sweeps.sweep_status import planned_row

_DOUBLINGS = 24
_FAR = 100.0
"""The decision asked for when none is given lies at this many times the compute of the largest run known."""


@dataclass(frozen=True)
class NextSweep:
    """Runs chosen for a decision."""

    sweep: Sweep
    decision: dict[str, float]
    law: str
    error_now: float
    """Standard error of the decision's logarithm by the runs known."""
    error_then: float
    """The same once these runs are in, to first order."""


def next_sweep(
    known: pd.DataFrame,
    *,
    corpus: str | Path,
    tokenizers: Mapping[int, str | Path],
    budget_flops: float,
    design: Design | str | Path,
    at: Mapping[str, float] | None = None,
    hidden_sizes: tuple[int, ...] | None = None,
    vocab_size: int | None = None,
    recipe: Recipe = None,
    bootstrap: int = 400,
) -> NextSweep:
    """Fit the design's law to the known runs and choose among the design's runs, at many lengths, by c-optimality.

    Args:
        known: a run table.
        budget_flops: of all new runs together; never exceeded.
        design: its law is fitted, its blocks and widths are what can be bought.
        at: the decision (``fits.decisions.next_runs.decision_at``); the best size at 100 times the largest known
            run's FLOPs, with the design's base routing, when left out.
        recipe: as in ``design_sweep``.

    Raises:
        UserError: the law cannot be fitted to the runs, the decision is incomplete, or the budget buys no run that
            would narrow it.
    """
    chosen = design if isinstance(design, Design) else find_design(design)
    usable, _ = usable_runs(known)
    law = fits.fit(chosen.fits, usable, bootstrap=bootstrap, duplicates="keep")
    tokens = column_values(usable, "tokens")
    units = tokens.min() / 4 * 2.0 ** np.arange(_DOUBLINGS)
    settings = {"tokenizers": tokenizers, "hidden_sizes": hidden_sizes, "vocab_size": vocab_size, "recipe": recipe}
    runs = [run for run in candidate_runs(units, design=chosen, **settings) if run.train_flops <= budget_flops]
    if not runs:
        raise UserError(f"a budget of {budget_flops:.3g} FLOPs buys no run of design '{chosen.name}'; give more.")
    variables = _variables(law, runs, usable)
    asked = dict(at) if at else _far_ahead(law, chosen, runs, usable, variables)
    rows = [{name: float(column[index]) for name, column in variables.items()} for index in range(len(runs))]
    costs = [float(run.train_flops) for run in runs]
    now, bought = choose_runs(law, rows, costs, decision_at(law, asked), budget_flops)
    if not bought:
        raise UserError(
            f"no run of design '{chosen.name}' within {budget_flops:.3g} FLOPs narrows the decision; give more budget, "
            "wider widths with --hidden-sizes, or another design."
        )
    sweep = Sweep(
        name=f"{chosen.name}-next",
        purpose="chosen for the decision at " + ", ".join(f"{name}={value:.4g}" for name, value in asked.items()),
        corpus=str(corpus),
        tokenizers={size: str(path) for size, path in tokenizers.items()},
        runs=tuple(
            runs[each.index].model_copy(update={"purpose": f"next: {each.gain:.0%} of the variance left"})
            for each in bought
        ),
    )
    return NextSweep(sweep, asked, chosen.fits, now, bought[-1].standard_error)


def _variables(law: fits.Fit, runs: list[RunSpec], known: pd.DataFrame) -> dict[str, np.ndarray]:
    """The law's variables of runs that are not trained yet; their text has the known runs' bytes a token."""
    frame = pd.DataFrame([planned_row(run) for run in runs])
    if "train_bytes" in known.columns:
        frame["train_bytes"] = frame["tokens"] * [_bytes_per_token(known, run) for run in runs]
    unknown = [name for name in law.as_law.variable_names if name not in law.means]
    if unknown:
        raise UserError(f"law '{law.law}' has no column for {', '.join(unknown)}; choose another design.")
    return {name: column_values(frame, meaning) for name, meaning in law.means.items()}


def _bytes_per_token(known: pd.DataFrame, run: RunSpec) -> float:
    ratio = column_values(known, "train_bytes / tokens")
    same = column_values(known, "vocab_size") == run.architecture.vocab_size if "vocab_size" in known else ratio < 0
    return float(np.median(ratio[same] if same.any() else ratio))


def _far_ahead(
    law: fits.Fit, design: Design, runs: list[RunSpec], known: pd.DataFrame, variables: dict[str, np.ndarray]
) -> dict[str, float]:
    names = law.as_law.variable_names
    data = "H" if "H" in names else "D"
    if not {"N", data} <= set(names):
        raise UserError(f"law '{law.as_law.name}' has no size and data; say what is to be decided with --decide.")
    base = next(
        (
            index
            for index, run in enumerate(runs)
            if run.architecture.num_experts == design.base.num_experts
            and run.architecture.experts_per_token == design.base.experts_per_token
        ),
        0,
    )
    others = {name: float(variables[name][base]) for name in names if name not in ("N", data)}
    more = {"bytes_per_token": _bytes_per_token(known, runs[base])} if data == "H" else {}
    return {"C": _FAR * float(column_values(known, "train_flops").max()), **others, **more}
