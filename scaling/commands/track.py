"""scaling track: is the big run on the curve that its plan promised?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.commands.console import print_json, print_table, say

if TYPE_CHECKING:
    from scaling.track.compare import Comparison


def track(
    plan: Annotated[Path, typer.Argument(help="plan.yaml with a predicted curve.")],
    log: Annotated[Path, typer.Argument(help="CSV or JSON lines: tokens, steps or samples against loss.")],
    out: Annotated[Path | None, typer.Option(help="Draw the comparison (.png, .svg or .pdf).")] = None,
    step_column: Annotated[
        str | None, typer.Option(help="Column of steps, tokens or samples, where its name is unusual.")
    ] = None,
    loss_column: Annotated[str | None, typer.Option(help="Column of the loss, where its name is unusual.")] = None,
    gap: Annotated[float | None, typer.Option(help="What an undecayed run lies above a decayed one.")] = None,
    gap_sd: Annotated[float | None, typer.Option(help="Standard deviation of that gap.")] = None,
    run_sd: Annotated[float | None, typer.Option(help="Standard deviation of one run about the law.")] = None,
    level: Annotated[float, typer.Option(help="Level of the interval of the end.")] = 0.9,
    alarm: Annotated[float, typer.Option(help="Probability of a false alarm in one look.")] = 0.05,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the log of the big run with the plan's curve: on it or not, how sure, and the predicted end.

    The curve promises losses of decayed runs. Rows of an undecayed run lie above it by a gap, given with --gap (from
    your proxies) or assumed; a column 'decayed' with 1 marks rows of decayed branches, which compare without it.

    Columns are known by the words of their names; what was read, converted or left out is said in notes.

    \b
    Example:
        scaling track plan.yaml metrics.csv --out track.png
    """
    from dataclasses import asdict

    from fits.errors import UserError
    from scaling.plan import TrainingPlan
    from scaling.track.compare import USUAL_GAP, compare
    from scaling.track.log import read_log
    from scaling.track.plot import save_plot

    for name, value in (("level", level), ("alarm", alarm)):
        if not 0 < value < 1:
            raise UserError(f"--{name} is {value:g}: must lie between 0 and 1.")
    if gap_sd is not None and gap is None:
        raise UserError("--gap-sd needs --gap; give both.")
    made = TrainingPlan.load(plan)
    rows = read_log(log, made, step_column=step_column, loss_column=loss_column)
    prior = None if gap is None else (gap, gap_sd if gap_sd is not None else abs(gap) * USUAL_GAP[1] / USUAL_GAP[0])
    found = compare(made, rows, level=level, alarm=alarm, gap=prior, run_sd=run_sd)
    if out:
        save_plot(made, found, out)
    if json:
        print_json(asdict(found))
        return
    _print(found, made.prediction.unit, made.tokens)
    if out:
        say(f"wrote {out}")


def _print(found: "Comparison", unit: str, planned: int) -> None:
    from fits.numbers import count

    say(f"{found.verdict}: {count(found.tokens)} of {count(planned)} tokens")
    rows = [["promised end", f"{found.promised:.4f}, {found.promised_low:.4f} to {found.promised_high:.4f} {unit}"]]
    if found.end is not None:
        rows.append(
            ["predicted end now", f"{found.end:.4f}, {found.end_low:.4f} to {found.end_high:.4f} ({found.level:.0%})"]
        )
        rows.append(["this run / promise - 1", f"{found.deviation:+.2%} +- {found.deviation_sd:.2%}"])
        rows.append(["p-value", f"{found.p_value:.3g} (of a deviation this large, if the promise holds)"])
        rows.append(["would be seen (80 %)", f"a deviation of {found.detectable:.2%}"])
        rows.append(["rows", f"{found.rows}, worth {found.facts:.0f} independent ones; {found.spikes} spikes left out"])
    if found.end_if_it_stays_off is not None:
        rows.append(["end if it stays off", f"{found.end_if_it_stays_off:.4f} {unit}"])
    print_table(["", "value"], rows)
    for note in found.notes:
        say(f"note: {note}")


def register(app: typer.Typer) -> None:
    app.command()(track)
