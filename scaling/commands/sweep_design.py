"""`scaling sweep design` and `cost`: which runs to buy, and what they take, before anything is spent."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fits.errors import UserError
from fits.numbers import count, quantity
from scaling.commands.console import note, print_json, print_table, say
from scaling.commands.options import numbers, pairs, whole_numbers

if TYPE_CHECKING:
    from scaling.cluster.hardware import Gpu
    from trainer_small.config import RunSpec
    from trainer_small.designs.next import NextSweep
    from trainer_small.sweeps.sweep import Sweep
    from trainer_small.sweeps.sweep_time import Speed

_WORKERS = (1, 2, 4, 8, 16, 64)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def design(
    corpus: Annotated[Path, typer.Option(help="A corpus folder made by scaling corpus.")],
    study: Annotated[Path, typer.Option(help="A study folder made by scaling vocab study; holds the tokenizers.")],
    vocab_sizes: Annotated[str, typer.Option(help="Vocabulary sizes, such as 1024,2048,4096.")],
    budget_flops: Annotated[float, typer.Option(help="Training FLOPs of all runs together; never exceeded.")],
    out: Annotated[Path, typer.Option(help="The sweep file to write.")],
    law: Annotated[
        str,
        typer.Option(
            help="moe-bits, hoffmann, isoflop, joint-moe, efficiency-leverage, vocabulary, lr-batch, or a FILE.yaml."
        ),
    ] = "moe-bits",
    hidden_sizes: Annotated[str | None, typer.Option(help="Widths instead of the design's, smallest first.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="A YAML of what all runs share: training (optimizer, batch ...), dtype, device, compile."),
    ] = None,
    known: Annotated[Path | None, typer.Option(help="A run table: choose what narrows the decision most.")] = None,
    decide: Annotated[
        str | None, typer.Option(help="With --known: the best size at C=1e22, or the loss at N=7e9,D=2e12.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Choose the runs that identify a law within a budget, and print what they cost.

    With --known the law is fitted to the runs at hand, and of the design's runs those are taken that narrow the
    decision most for their FLOPs.

    \b
    Example: scaling sweep design --corpus corpus --study study \\
        --vocab-sizes 1024,2048 --budget-flops 1e13 --out s.yaml
    """
    here = out.parent
    settings: dict[str, Any] = {
        "corpus": os.path.relpath(corpus, here),
        "tokenizers": {
            size: os.path.relpath(_tokenizer(study, size), here) for size in whole_numbers(vocab_sizes, "--vocab-sizes")
        },
        "budget_flops": budget_flops,
    }
    if recipe is not None:
        settings["recipe"] = recipe
    if hidden_sizes is not None:
        settings["hidden_sizes"] = whole_numbers(hidden_sizes, "--hidden-sizes")
    if decide is not None and known is None:
        raise UserError("--decide needs --known, the runs by which the decision stands now.")
    chosen: NextSweep | None = None
    if known is not None:
        chosen = _next(known, decide, law, settings)
        sweep = chosen.sweep
    elif law == "vocabulary":
        from vocab_study.study.sweep_design import design_vocabulary_sweep

        sweep = design_vocabulary_sweep(**settings)
    else:
        from trainer_small.designs.design import design_sweep

        sweep = design_sweep(design=law, **settings)
    sweep.save(out, heading=f"{sweep.name}: {sweep.purpose}\nTrain it with: scaling sweep run {out.name} --out runs")
    _print_cost(sweep, as_json, None, chosen)
    if not as_json:
        say(f"wrote {out}")


def _next(known: Path, decide: str | None, law: str, settings: Mapping[str, Any]) -> "NextSweep":
    from fits.tables.runs import read_runs
    from trainer_small.designs.next import next_sweep

    if law == "vocabulary":
        raise UserError("--known chooses among runs of a grid; give --law moe-bits, whose law sees the vocabulary.")
    at = numbers(pairs(decide.split(","), "--decide"), "--decide") if decide else None
    return next_sweep(read_runs(known), design=law, at=at, **settings)


def cost(
    sweep_file: Annotated[Path, typer.Argument(help="A sweep file.")],
    gpu: Annotated[str | None, typer.Option(help="Time on this GPU, such as h200, by its data sheet.")] = None,
    utilisation: Annotated[
        float | None, typer.Option(help="With --gpu: share of its peak; default: by what bounds.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each run, for the measurement here.")] = 1,
    measure: Annotated[bool, typer.Option(help="Without --gpu: measure this machine's speed (seconds).")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Show what a sweep takes before anything runs: FLOPs, memory and time of every run, and wall time by workers.

    \b
    Example: scaling sweep cost sweep.yaml --gpu h200
    """
    from trainer_small.machine.run_memory import run_memory_bytes
    from trainer_small.sweeps.sweep import Sweep

    if utilisation is not None and (gpu is None or not 0 < utilisation <= 1):
        raise UserError(f"--utilisation is {utilisation:g}; give a share of the peak above 0 and up to 1, with --gpu.")
    sweep = Sweep.load(sweep_file)
    speed: Speed | None = None
    card = None
    if gpu is not None:
        from scaling.cluster.hardware import gpu as find
        from trainer_small.sweeps.sweep_time import device_speed

        card = find(gpu)
        speed = device_speed(gpu.lower(), card.peak_flops, utilisation, memory_bandwidth=card.memory_bandwidth)
    elif measure:
        from trainer_small.sweeps.measure_speed import measured_speed

        speed = measured_speed(sweep.runs, threads=threads)
    largest = max(sweep.runs, key=run_memory_bytes)
    _print_cost(sweep, as_json, speed, peak=_peak_bytes(largest, card))


def _peak_bytes(run: "RunSpec", card: "Gpu | None") -> int:
    """Most memory that the run takes here or on the card, where its micro-batch is the largest that fits."""
    from scaling.commands.sweep_tables import size
    from trainer_small.steps.memory_estimate import largest_micro_batch, memory_estimate, with_micro_batch

    if card is None:
        return memory_estimate(run).total
    training = run.training
    micro = training.micro_batch_tokens or largest_micro_batch(run, card.memory_bytes) or training.sequence_length
    peak = memory_estimate(with_micro_batch(run, micro), cuda=True).total
    if peak > card.memory_bytes:
        note(
            f"run {run.run_id} takes {size(peak)} with {micro} tokens at a time and the card has "
            f"{size(round(card.memory_bytes))}: shard its parameters over several (parallel.shard_parameters)"
        )
    return peak


def _print_cost(
    sweep: "Sweep",
    as_json: bool,
    speed: "Speed | None" = None,
    chosen: "NextSweep | None" = None,
    peak: int | None = None,
) -> None:
    from scaling.commands.sweep_tables import duration, size
    from trainer_small.sweeps.sweep_time import makespan

    total = sweep.cost()
    seconds = [speed.seconds(run) for run in sweep.runs] if speed else []
    wall = {workers: makespan(sweep.runs, seconds, workers) for workers in _WORKERS} if speed else {}
    saved = total.train_flops - total.train_flops_spent
    if as_json:
        print_json(
            {
                "name": sweep.name,
                "train_flops_spent": total.train_flops_spent,
                "train_flops": total.train_flops,
                "tokens_spent": total.tokens_spent,
                "largest_memory_bytes": peak or max(each.memory_bytes for each in total.runs),
                "runs": [
                    vars(each) | ({"seconds": time} if speed else {})
                    for each, time in zip(total.runs, seconds or [0.0] * len(total.runs), strict=True)
                ],
                "speed": speed.source if speed else None,
                "device_hours": sum(seconds) / 3600 if speed else None,
                "wall_seconds_by_workers": {str(workers): time for workers, time in wall.items()},
                "decision": None
                if chosen is None
                else {
                    "at": chosen.decision,
                    "law": chosen.law,
                    "standard_error_now": chosen.error_now,
                    "standard_error_then": chosen.error_then,
                },
            }
        )
        return
    rows = [
        (
            each.run_id,
            count(each.params_active),
            count(each.tokens),
            f"{each.train_flops_spent:.2e}",
            size(each.memory_bytes),
            *([duration(seconds[index])] if speed else []),
        )
        for index, each in enumerate(total.runs)
    ]
    print_table(["run", "active", "tokens", "FLOPs", "memory", *(["time"] if speed else [])], rows)
    say(
        f"{len(rows)} runs, {count(total.tokens_spent)} tokens, {quantity(float(total.train_flops_spent))} FLOP; "
        + (f"the largest takes {size(peak)} of memory" if peak else "memory is without the libraries' own")
    )
    if saved:
        say(f"shared trunks save {saved / total.train_flops:.0%} of {quantity(float(total.train_flops))} FLOP")
    if chosen is not None:
        at = ", ".join(f"{name}={value:.4g}" for name, value in chosen.decision.items())
        say(
            f"decision at {at} by law {chosen.law}: standard error of its log {quantity(chosen.error_now)} now, "
            f"about {quantity(chosen.error_then)} with these runs"
        )
    if speed and speed.bound:
        bounds = Counter(speed.bound(run) for run in sweep.runs)
        say(
            "bound by: "
            + ", ".join(f"{name} {number} run{'s' * (number > 1)}" for name, number in bounds.most_common())
        )
    if speed:
        say(f"time by {speed.source}: {quantity(sum(seconds) / 3600)} hours of one worker")
        print_table(["workers", "wall time"], [(workers, duration(time)) for workers, time in wall.items()])


def _tokenizer(study: Path, vocab_size: int) -> Path:
    """The tokenizer of a size, cut from the study's largest if it is not there."""
    path = study / "tokenizers" / str(vocab_size) / "tokenizer.json"
    if path.is_file():
        return path
    from vocab_study.study.study import Study

    return Study.load(study).tokenizer_file(vocab_size)


def register(group: typer.Typer) -> None:
    """Attach both commands."""
    group.command()(design)
    group.command()(cost)
