"""``scaling demo``: the public commands, one after another, on the text that comes with Python."""

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

BASE_RUNS = "num_experts == 8 and granularity == 2 and vocab_size == 2048"
"""The size x horizon grid of the sweep: the runs that differ in size, tokens and seed only."""

ROAD = (
    ("Text: the standard library of this Python", "corpus python:stdlib --out {out}/corpus"),
    (
        "Vocabulary: one tokenizer, every smaller one its prefix",
        "vocab study {out}/corpus --max-size 8192 --sizes 1024,2048,4096 --out {out}/study",
    ),
    (
        "Design: which small runs identify the laws, and what they cost",
        "sweep design --corpus {out}/corpus --study {out}/study --vocab-sizes 1024,2048,4096 --budget-flops 1.6e13 "
        "--out {out}/sweep.yaml",
    ),
    ("Training: every run of the sweep", "sweep run {out}/sweep.yaml --out {out}/runs"),
    ("Run table: one row a run", "sweep table {out}/runs --out {out}/runs.csv"),
    (
        "Fit: loss in active parameters and tokens",
        "fit {out}/runs.csv --law hoffmann --where '" + BASE_RUNS + "' --level 0.9 --out {out}/law_tokens.json",
    ),
    (
        "Fit: bits per byte in parameters, bytes, experts, granularity and vocabulary",
        "fit {out}/runs.csv --law moe-bits --level 0.9 --out {out}/law.json",
    ),
    (
        "Plan: about 100 times the largest run, by the law just fitted",
        "plan --law {out}/law.json --flops 5e14 --sweep {out}/sweep.yaml --vocab-study {out}/study "
        "--out {out}/plan.yaml",
    ),
    (
        "Plan: the A.X K1 case, 1024 H200 for 75 days, by published laws",
        "plan --law published:tian --gpus 1024 --gpu h200 --days 75 --mfu 0.388 --max-params-total 520e9 "
        "--out {out}/plan_axk1.yaml",
    ),
    ("Configs for the training stacks", "export {out}/plan.yaml --stack all --out {out}/configs"),
    ("Configs, counted again by the stack's own classes", "check {out}/configs"),
    ("Report", "report {out} --out {out}/report.html"),
)
"""What each step is for, and the command that does it alone."""


def road(out: str | Path) -> list[tuple[str, list[str]]]:
    """The steps of the demo in ``out``: a title and the arguments of ``scaling``."""
    quoted = shlex.quote(str(out))
    return [(title, shlex.split(command.format(out=quoted))) for title, command in ROAD]


def walk(out: str | Path) -> Path:
    """Do every step in ``out``; a step that is done is found done, so a second call takes seconds.

    Returns:
        The report's path.
    """
    from scaling.cli import app
    from scaling.commands.console import say

    started = time.monotonic()
    steps = road(out)
    for number, (title, arguments) in enumerate(steps, start=1):
        say(f"\n[{number}/{len(steps)}] {title}")
        say(f"$ scaling {shlex.join(arguments)}")
        before = time.monotonic()
        code = app(arguments, standalone_mode=False)
        if code:
            raise typer.Exit(code)
        say(f"({time.monotonic() - before:.1f} s)")
    report = Path(out) / "report.html"
    say(f"\nDone in {time.monotonic() - started:.0f} s. Open {report} in a browser.")
    return report


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="The folder for everything the demo makes.")] = Path("demo_out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print where the report is as JSON.")] = False,
) -> None:
    """Walk the whole road on the text that comes with Python: runs, laws, plans, configs, report.

    Takes some minutes; a second call finds what is done. Ctrl-C stops it, the same command carries on.

    \b
    Example: scaling demo --out demo_out
    """
    from scaling.commands.console import print_json

    if not as_json:
        walk(out)
        return
    with contextlib.redirect_stdout(sys.stderr):  # what the steps say
        report = walk(out)
    print_json({"report": str(report)})
