"""The three approaches of arXiv 2203.15556 side by side: envelope, IsoFLOP minima and a parametric law."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fits.decisions.allocation import Interval, optimal_allocation, surface
from fits.decisions.isoflop import Frontier, envelope_frontier, isoflop_frontier, with_left_out
from fits.errors import UserError
from fits.fitting.backtest import run_compute
from fits.fitting.result import Fit
from fits.numbers import quantity
from fits.tables.binding import bind_table


@dataclass(frozen=True)
class Advice:
    """One approach's answer at a budget; ``why_not`` says why an approach had none, ``note`` on which runs it rests."""

    approach: str
    size_exponent: Interval | None
    size: Interval | None
    tokens: Interval | None
    why_not: str = ""
    note: str = ""


def three_approaches(
    fit: Fit, flops: np.ndarray, size: np.ndarray, loss: np.ndarray, at: float, *, bootstrap: int = 500, seed: int = 0
) -> list[Advice]:
    """Optimal size and tokens at ``at`` FLOPs by each approach, under C = 6 N D.

    Args:
        fit: a law in N and D (approach 3), fitted to the same runs.
        flops: each run's compute [n].
        size: parameters [n].
        loss: [n].

    Raises:
        UserError: the law has no N and D; an approach the runs do not allow is reported, not raised.
    """
    found = []
    both = (("1 envelope", envelope_frontier, _sizes), ("2 IsoFLOP minima", isoflop_frontier, _budgets))
    for name, frontier, note in both:
        try:
            line = frontier(flops, size, loss, bootstrap=bootstrap, seed=seed, level=fit.level)
        except UserError as error:
            found.append(Advice(name, None, None, None, str(error)))
        else:
            if line.exponent.low < 0 and line.exponent.high > 1:
                why = "Not identified: the exponent's interval holds both 0 and 1; add sizes at equal FLOPs."
                found.append(Advice(name, None, None, None, why, note(line)))
                continue
            found.append(Advice(name, line.exponent, line.size(at), line.tokens(at), note=note(line)))
    best = optimal_allocation(surface(fit), at)
    found.append(
        Advice(
            "3 parametric",
            best.size_exponent,
            best.size.times(fit.unit_of("N")),
            best.tokens,
            note=f"{fit.n_runs} runs",
        )
    )
    return found


def _sizes(line: Frontier) -> str:
    """What an envelope rests on."""
    reached = sorted({each.size for each in line.minima})
    return f"{len(reached)} sizes reach the envelope, {quantity(reached[0])} to {quantity(reached[-1])}"


def _budgets(line: Frontier) -> str:
    """What a line through IsoFLOP minima rests on."""
    runs = [str(each.runs) for each in line.minima if each.interior]
    return with_left_out(f"{len(runs)} budgets, of {', '.join(runs[:-1])} and {runs[-1]} runs", line.left_out)


def approaches_of(fit: Fit, data: pd.DataFrame, at: float, *, compute: str | None = None) -> list[Advice]:
    """The three approaches of arXiv 2203.15556 side by side, from the table that was fitted.

    ``compute`` is as in ``fits.fitting.backtest.run_compute``.

    Raises:
        UserError: the law has no N, or ``at`` is not above 0.
    """
    if not at > 0:
        raise UserError(f"The budget is {at:g} FLOPs; it must be above 0.")
    law = fit.as_law
    if not {"N", "D"} <= set(law.variable_names):
        raise UserError(f"The three approaches compare advice on N and D; law '{law.name}' lacks one of them.")
    binding = {"bind": fit.bind, "loss": fit.data.loss, "duplicates": "keep"}
    bound = bind_table(law, data, **binding)
    size_unit = fit.unit_of("N")
    flops = run_compute(law, data, compute, units=size_unit * fit.unit_of("D"), **binding)
    return three_approaches(fit, flops, size_unit * bound.variables["N"], bound.loss, at)
