"""`scaling sweep`: design, cost, run, status and table of many small training runs."""

import time
from pathlib import Path
from typing import Annotated

import typer

from scaling.commands import sweep_design
from scaling.commands.console import is_terminal, live, note, print_json, progress, say
from scaling.commands.sweep_tables import SweepWatch, in_words, print_result, print_status, status_table

commands = typer.Typer(no_args_is_help=True, help="Many small runs: design, cost, train, watch, tabulate.")

sweep_design.register(commands)

_INTERRUPTED, _BUSY = 130, 75
_REFRESH_SECONDS, _LOG_SECONDS = 2.0, 60.0


@commands.command()
def run(
    sweep_file: Annotated[Path, typer.Argument(help="A sweep file.")],
    out: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
    engine: Annotated[str, typer.Option(help="local, slurm, sbatch (a script to submit) or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(help="local: processes at a time; default: as fit.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each run.")] = 1,
    per_gpu: Annotated[int, typer.Option(help="Runs that share one GPU.")] = 1,
    gpus_per_run: Annotated[int, typer.Option(help="GPUs of one run; 0: CPU only, above 1: torchrun.")] = 1,
    max_parallel: Annotated[int | None, typer.Option(help="slurm, sbatch, ray: runs at a time.")] = None,
    runs_per_task: Annotated[int | None, typer.Option(help="slurm: runs that one array element trains.")] = None,
    slurm: Annotated[
        list[str] | None, typer.Option(help="slurm, sbatch: KEY=VALUE for sbatch, such as partition=gpu; again.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="ray: address of a running cluster, or auto; default: start one here.")
    ] = None,
    retry_diverged: Annotated[int, typer.Option(help="Begin a diverged run again so often.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state of the runs as JSON.")] = False,
) -> None:
    """Train every run of a sweep.

    Ctrl-C stops it in good order. The same command carries on, as it does after a crash, and with another engine too:
    what is done is decided by the files in the run folders.

    \b
    Example: scaling sweep run sweep.yaml --out runs
    """
    from scaling.commands.options import pairs
    from trainer_small.engines.choice import EngineChoice
    from trainer_small.engines.engine import Resources
    from trainer_small.engines.sweep_run import run_sweep, write_sbatch_script

    choice = EngineChoice(
        name=engine,
        resources=Resources(threads=threads, gpus=gpus_per_run, per_gpu=per_gpu),
        workers=workers,
        max_parallel=max_parallel,
        runs_per_task=runs_per_task,
        options=pairs(slurm, "--slurm"),
        address=ray_address,
    )
    with progress() as bar:
        watch = SweepWatch(bar)
        if engine == "sbatch":
            script = write_sbatch_script(sweep_file, out, choice, retry_diverged=retry_diverged, prepare=watch.prepare)
        else:
            status = run_sweep(
                sweep_file,
                out,
                engine=choice,
                retry_diverged=retry_diverged,
                progress=watch.train,
                prepare=watch.prepare,
            )
    if engine == "sbatch":
        if as_json:
            print_json({"script": None if script is None else str(script)})
        else:
            say("nothing is left to train" if script is None else f"wrote {script}; submit it with: sbatch {script}")
        return
    print_status(status, as_json, all_runs=False)
    if status.interrupted:
        jobs = ", and so do jobs that Slurm has (scancel --name scaling ends them)" if engine == "slurm" else ""
        note(f"stopped; what was trained is kept{jobs}; the same command carries on")
        raise typer.Exit(_INTERRUPTED)
    if not status.complete:
        raise typer.Exit(1)


@commands.command("run-one")
def run_one(
    directories: Annotated[list[Path], typer.Argument(help="Run folders with a config.yaml.")],
    threads: Annotated[int, typer.Option(help="Threads to train with.")] = 1,
    at_once: Annotated[int, typer.Option(help="With several folders: so many at a time.")] = 1,
    stacked: Annotated[bool, typer.Option("--stacked", help="With several folders of one shape: as one.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that another process has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a run folder to its end, from wherever it stands: what every engine starts.

    \b
    Example: scaling sweep run-one runs/d64-t1-e8-g2-v2048
    """
    from trainer_small.engines.run_process import run_in_process, run_many, run_stacked
    from trainer_small.runs.run import RunBusy

    if len(directories) > 1:
        if stacked:
            statuses = run_stacked(directories, threads=threads)
        else:
            statuses = run_many(directories, threads=threads, at_once=at_once)
        print_status(statuses, as_json, all_runs=True)
        if statuses.interrupted:
            raise typer.Exit(_INTERRUPTED)
        return
    (directory,) = directories
    with progress() as bar:
        watch = SweepWatch(bar)
        try:
            result = run_in_process(directory, threads=threads, wait=wait, on_progress=watch.one)
        except RunBusy as error:
            note(f"error: {error}")
            raise typer.Exit(_BUSY) from None
    print_result(result, as_json)
    if result.status == "interrupted":
        note("stopped; the same command carries on")
        raise typer.Exit(_INTERRUPTED)


@commands.command()
def status(
    out: Annotated[Path, typer.Argument(help="The folder of the runs.")],
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date to the end.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every run, also of more than 200.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state of the runs as JSON.")] = False,
) -> None:
    """Show where every run stands: queued, running (loss, time left), done, failed or diverged.

    \b
    Example: scaling sweep status runs --watch
    """
    from trainer_small.sweeps.sweep_status import sweep_status

    if not watch or as_json:
        now = sweep_status(out)
        print_status(now, as_json, all_runs=True, **({"room": len(now.runs)} if every else {}))
        return
    try:
        if is_terminal():
            with live() as screen:
                while not (now := sweep_status(out)).ended:
                    rows = status_table(now, room=screen.console.height - 3, title=in_words(now))
                    screen.update(rows, refresh=True)
                    time.sleep(_REFRESH_SECONDS)
        else:
            while not (now := sweep_status(out)).ended:
                note(in_words(now))
                time.sleep(_LOG_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    print_status(now, False, all_runs=True)


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
    from fits.tables.runs import write_runs
    from trainer_small.sweeps.sweep_status import sweep_table

    frame = sweep_table(runs)
    write_runs(frame, out)
    counts = {str(name): int(number) for name, number in frame["status"].value_counts().items()}
    if as_json:
        print_json({"table": str(out), "runs": counts})
    else:
        say(f"wrote {out}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))


def register(app: typer.Typer) -> None:
    """Attach the group."""
    app.add_typer(commands, name="sweep")
