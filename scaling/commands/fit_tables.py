"""What `scaling fit` prints."""

from collections.abc import Sequence
from typing import Any

from fits.numbers import quantity
from scaling.commands.console import print_table, say

_SHOWN = 5


def print_fit(result: Any) -> None:
    """Coefficients with intervals, the proof of convergence, decisions and warnings."""
    say(f"{result.law}: {result.formula}")
    say(
        f"{result.n_runs} runs, {result.objective.name} {result.objective.value:.10g}, "
        f"scatter {result.residual_scale:.3g}, "
        + (f"{result.bootstrap.kind} bootstrap ({result.bootstrap.reason})" if len(result.draws) else "no bootstrap")
    )

    def interval(low: float, high: float) -> str:
        return f"{quantity(low)} to {quantity(high)}" if len(result.draws) else "none asked"

    rows = [
        [name, each.value, interval(each.low, each.high), each.standard_error if len(result.draws) else "", each.how]
        for name, each in result.parameters.items()
    ]
    print_table(["parameter", "value", f"{result.level:.0%} interval", "standard error", ""], rows)
    proof = result.convergence
    condition = "singular" if proof.condition_number is None else quantity(proof.condition_number)
    say(
        f"{'converged' if proof.converged else 'NOT CONVERGED'}: gradient {proof.gradient_norm:.1e}, "
        f"{proof.starts_at_best} of {proof.starts} descents at the best, condition number {condition}"
    )
    if result.constants:
        shared = ", ".join(f"{name} {value:g}" for name, value in result.constants.items())
        say(f"all runs have {shared}")
    for text, answer in result.decisions.items():
        rows = [
            [name, each["value"], interval(each["low"], each["high"])]
            for name, each in answer.items()
            if isinstance(each, dict) and "low" in each
        ]
        print_table([f"at {text}", "value", f"{result.level:.0%} interval"], rows)
        beyond = {name: each for name, each in answer["extrapolation_decades"].items() if each}
        if beyond:
            say("beyond the runs by " + ", ".join(f"{each:+.1f} decades in {name}" for name, each in beyond.items()))
    for warning in result.warnings:
        say(f"warning: {warning}")


def print_backtest(score: Any) -> None:
    """One row a cut."""
    rows = [
        [cut.flops, cut.fitted, cut.predicted, round(cut.decades, 2), f"{cut.error:.2%}", f"{cut.bias:+.2%}"]
        for cut in score.cuts
    ]
    print_table(["fitted up to", "runs", "predicted", "decades beyond", "error", "bias"], rows, title="backtest")


def print_conspicuous(runs: Any, fitted: int) -> None:
    """The runs that stand out, worst first: outliers, and those that carry the fit alone."""
    if not len(runs):
        return
    say(f"{int(runs['outlier'].sum())} of {fitted} runs are outliers, {int(runs['heavy'].sum())} weigh heavily:")
    rows = [
        [each.row, each.run, f"{each.deviations:+.1f}", f"{each.leverage:.2f}", _why(each)]
        for each in runs.head(_SHOWN).itertuples()
    ]
    print_table(["row of the file", "run", "robust deviations", "leverage", ""], rows)


def _why(run: Any) -> str:
    return " and ".join(word for word, holds in (("outlier", run.outlier), ("heavy", run.heavy)) if holds)


def print_comparison(scores: Sequence[Any], notes: Sequence[str]) -> None:
    """Laws by what they predict beyond their data."""
    rows = [
        [
            each.law,
            each.parameters,
            f"{each.error:.2%}",
            f"{each.in_sample:.2%}",
            round(each.aic, 1),
            round(each.bic, 1),
        ]
        for each in scores
    ]
    print_table(["law", "parameters", "backtest error", "in sample", "AIC", "BIC"], rows, title="laws by backtest")
    for note in notes:
        say(f"warning: {note}")


def print_profiles(profiles: Sequence[Any], level: float) -> None:
    """Intervals where the likelihood ratio stays below its limit."""
    rows = [[each.parameter, each.best, _end(each.low), _end(each.high)] for each in profiles]
    print_table(["parameter", "value", "low", "high"], rows, title=f"profile likelihood of least squares, {level:.0%}")


def _end(value: float | None) -> str:
    return "not bounded" if value is None else quantity(value)


def print_approaches(advice: Sequence[Any], flops: float) -> None:
    """The three approaches side by side, or why one has no answer, and the runs that each rests on."""
    rows = [[each.approach, *map(_ends, (each.size_exponent, each.size, each.tokens)), each.why_not] for each in advice]
    print_table(["approach", "size exponent", "N", "D", ""], rows, title=f"at {quantity(flops)} FLOPs, C = 6 N D")
    for each in advice:
        if each.note:
            say(f"{each.approach}: {each.note}")


def _ends(each: Any) -> str:
    return "-" if each is None else f"{quantity(each.value)} ({quantity(each.low)} to {quantity(each.high)})"
