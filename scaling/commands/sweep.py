"""`scaling sweep`: design, cost, run, status and table of many small training runs."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fits.errors import UserError
from scaling.console import count, is_terminal, note, print_json, print_table, progress, quantity, say

if TYPE_CHECKING:
    from trainer_small.sweep import Sweep
    from trainer_small.sweep_run import SweepProgress
    from trainer_small.sweep_status import SweepStatus

commands = typer.Typer(no_args_is_help=True, help="Many small runs: design, cost, train, watch, tabulate.")

_LINE_SECONDS = 15.0
"""In a log, where there is no bar, a line this often."""


@commands.command()
def design(
    corpus: Annotated[Path, typer.Option(help="A corpus folder made by scaling corpus.")],
    study: Annotated[Path, typer.Option(help="A study folder made by scaling vocab study; holds the tokenizers.")],
    vocab_sizes: Annotated[str, typer.Option(help="Vocabulary sizes, such as 1024,2048,4096.")],
    budget_flops: Annotated[float, typer.Option(help="Training FLOPs of all runs together.")],
    out: Annotated[Path, typer.Option(help="The sweep file to write.")],
    hidden_sizes: Annotated[str, typer.Option(help="Three widths, smallest first.")] = "32,64,96",
    num_experts: Annotated[str, typer.Option(help="Expert counts beside the grid's 8.")] = "4,16,32",
    granularities: Annotated[str, typer.Option(help="Granularities beside the grid's 2.")] = "4",
    repeats: Annotated[int, typer.Option(help="Runs of the middle point with other seeds.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cost as JSON.")] = False,
) -> None:
    """Choose the runs that identify the laws within a budget, and print what they cost.

    \b
    Example: scaling sweep design --corpus corpus --study study \\
        --vocab-sizes 1024,2048 --budget-flops 1e13 --out s.yaml
    """
    from trainer_small.design import design_sweep

    widths = _numbers(hidden_sizes)
    if len(widths) != 3:
        raise UserError(f"--hidden-sizes is '{hidden_sizes}'; give three widths, such as 32,64,96.")
    here = out.parent
    sweep = design_sweep(
        corpus=os.path.relpath(corpus, here),
        tokenizers={size: os.path.relpath(_tokenizer(study, size), here) for size in _numbers(vocab_sizes)},
        budget_flops=budget_flops,
        hidden_sizes=(widths[0], widths[1], widths[2]),
        num_experts=_numbers(num_experts),
        granularities=_numbers(granularities),
        repeats=repeats,
    )
    sweep.save(out, heading=f"{sweep.name}: {sweep.purpose}\nTrain it with: scaling sweep run {out.name} --out runs")
    _print_cost(sweep, as_json)
    if not as_json:
        say(f"wrote {out}")


@commands.command()
def cost(
    sweep_file: Annotated[Path, typer.Argument(help="A sweep file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the cost as JSON.")] = False,
) -> None:
    """Show what a sweep takes before anything runs: parameters, tokens and FLOPs of every run.

    \b
    Example: scaling sweep cost sweep.yaml
    """
    from trainer_small.sweep import Sweep

    _print_cost(Sweep.load(sweep_file), as_json)


@commands.command()
def run(
    sweep_file: Annotated[Path, typer.Argument(help="A sweep file.")],
    out: Annotated[Path, typer.Option(help="The folder of the runs.")],
    workers: Annotated[
        int | None, typer.Option(help="Processes at a time; default: as cores and memory allow.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state of the runs as JSON.")] = False,
) -> None:
    """Train every run of a sweep on this machine.

    Ctrl-C stops it in good order, and the same command carries on, as it does after a crash.

    \b
    Example: scaling sweep run sweep.yaml --out runs
    """
    from trainer_small.sweep_run import run_sweep

    with progress() as bar:
        watch = _Watch(bar)
        status = run_sweep(
            sweep_file, out, workers=workers, threads=threads, progress=watch.train, prepare=watch.prepare
        )
    _print_status(status, as_json, all_runs=False)
    if status.interrupted:
        note("stopped; what was trained is kept, and the same command carries on")
        raise typer.Exit(130)
    if not status.complete:
        raise typer.Exit(1)


@commands.command("run-one")
def run_one(
    directory: Annotated[Path, typer.Argument(help="A run folder with a config.yaml.")],
    threads: Annotated[int, typer.Option(help="Threads to train with.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train one run folder to its end, from wherever it stands.

    \b
    Example: scaling sweep run-one runs/d64-t1-e8-g2-v2048
    """
    from trainer_small.run_process import run_in_process

    with progress() as bar:
        task = bar.add_task(directory.name, total=None)
        last_line = time.monotonic()

        def show(at: Any) -> None:
            nonlocal last_line
            text = f"{directory.name} loss {at.loss:.3f} {count(at.tokens_per_second)} tokens/s"
            bar.update(task, description=text, completed=at.step, total=at.steps)
            if not is_terminal() and time.monotonic() - last_line > _LINE_SECONDS:
                last_line = time.monotonic()
                note(f"{text}, step {at.step} of {at.steps}, about {_duration(at.seconds_left)} left")

        result = run_in_process(directory, threads=threads, on_progress=show)
    for warning in result.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        rows = [("status", result.status), ("steps", f"{result.step} of {result.steps}")]
        if result.reason:
            rows.append(("reason", result.reason))
        if result.losses:
            rows.append(("loss (nats/token)", quantity(result.losses.loss)))
            rows.append(("bits per byte", quantity(result.losses.bits_per_byte)))
        if result.speed:
            rows.append(("tokens/s", quantity(result.speed.tokens_per_second)))
            rows.append(("of a large product's FLOP/s", f"{result.speed.mfu:.0%}"))
        print_table(["", result.run_id], rows)
    if result.status == "interrupted":
        note("stopped; the same command carries on")
        raise typer.Exit(130)


@commands.command()
def status(
    out: Annotated[Path, typer.Argument(help="The folder of the runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the state of the runs as JSON.")] = False,
) -> None:
    """Show where every run stands: queued, running, done, failed or diverged.

    \b
    Example: scaling sweep status runs
    """
    from trainer_small.sweep_status import sweep_status

    _print_status(sweep_status(out), as_json, all_runs=True)


@commands.command()
def table(
    runs: Annotated[Path, typer.Argument(help="The folder of the runs.")],
    out: Annotated[Path, typer.Option(help="The table to write: .csv, .jsonl or .parquet.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts by status as JSON.")] = False,
) -> None:
    """Write the run table: one row a run, with its sizes, tokens, FLOPs and losses.

    \b
    Example: scaling sweep table runs --out runs.csv
    """
    from fits.runs import write_runs
    from trainer_small.sweep_status import sweep_table

    frame = sweep_table(runs)
    write_runs(frame, out)
    counts = {str(name): int(number) for name, number in frame["status"].value_counts().items()}
    if as_json:
        print_json({"table": str(out), "runs": counts})
    else:
        say(f"wrote {out}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))


class _Watch:
    """Shows a sweep on a terminal as bars, in a log as a line now and then."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks, self._last_line = bar, {}, time.monotonic()

    def prepare(self, vocab_size: int, done: int) -> None:
        task = f"tokenizing with vocabulary {vocab_size}, bytes"
        if task not in self._tasks:
            self._tasks[task] = self._bar.add_task(task, total=None)
        self._bar.update(self._tasks[task], completed=done)

    def train(self, at: "SweepProgress") -> None:
        share = at.cost_done / at.cost
        if "runs" not in self._tasks:
            self._tasks["runs"] = self._bar.add_task("runs", total=at.runs)
        running = ", ".join(f"{name} {run.loss:.2f}" for name, run in at.running.items() if run.loss is not None)
        # The bar moves by work, not by runs, so that its time left is right when runs differ in length.
        self._bar.update(self._tasks["runs"], completed=at.runs * share, description=f"runs ({running})")
        event = at.event
        if event is not None and event.status in ("failed", "diverged", "lost"):
            note(f"{event.run_id} {event.status}: {event.reason}")
        if not is_terminal() and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            left = f", about {_duration(at.seconds_left)} left" if at.seconds_left is not None else ""
            note(f"{at.finished} of {at.runs} runs, {share:.0%} of the work{left}; {running}")


def _print_cost(sweep: "Sweep", as_json: bool) -> None:
    total = sweep.cost()
    if as_json:
        print_json(
            {
                "name": sweep.name,
                "train_flops": total.train_flops,
                "tokens": total.tokens,
                "runs": [vars(each) for each in total.runs],
            }
        )
        return
    rows = [
        (each.run_id, count(each.params_total), count(each.params_active), count(each.tokens), float(each.train_flops))
        for each in total.runs
    ]
    print_table(["run", "params_total", "params_active", "tokens", "train_flops"], rows)
    say(f"{len(rows)} runs, {count(total.tokens)} tokens, {quantity(float(total.train_flops))} FLOP in all")


def _print_status(status: "SweepStatus", as_json: bool, *, all_runs: bool) -> None:
    if as_json:
        print_json({"counts": status.count(), "runs": [each.to_dict() for each in status.runs]})
        return
    shown = [each for each in status.runs if all_runs or each.status not in ("done", "queued")]
    if shown:
        rows = [
            (
                each.run_id,
                each.status,
                each.step,
                "" if each.loss is None else quantity(each.loss),
                "" if each.tokens_per_second is None else count(round(each.tokens_per_second)),
                each.reason or "",
            )
            for each in shown
        ]
        print_table(["run", "status", "step", "loss", "tokens/s", "reason"], rows)
    say(", ".join(f"{number} {name}" for name, number in status.count().items()))


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"'{text}' is not a list of whole numbers such as 32,64,96.") from None


def _tokenizer(study: Path, vocab_size: int) -> Path:
    path = study / "tokenizers" / str(vocab_size) / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{study} has no tokenizer of size {vocab_size}; make it with: scaling vocab study CORPUS --out {study} "
            f"--sizes {vocab_size}"
        )
    return path


def register(app: typer.Typer) -> None:
    """Attach the group."""
    app.add_typer(commands, name="sweep")
