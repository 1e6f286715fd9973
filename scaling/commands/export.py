"""scaling export: the plan as files of a training stack."""

from pathlib import Path
from typing import Annotated

import typer

from scaling.commands.console import print_json, print_table, say


def export(
    plan: Annotated[Path, typer.Argument(help="plan.yaml")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    stack: Annotated[str, typer.Option(help="megatron, hf, torchtitan, olmo-core, megatron-bridge or all.")] = "all",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a training plan for Megatron-LM, Hugging Face, torchtitan, OLMo-core or Megatron-Bridge.

    Several stacks get a folder each; the plan is copied beside them. What a stack cannot say is named, and a model
    that it cannot compute is refused; of all, the other stacks are written.

    \b
    Example:
        scaling export plan.yaml --stack all --out main_run
    """
    from scaling.handoff.export import export_plan
    from scaling.plan import TrainingPlan

    done = export_plan(TrainingPlan.load(plan), [stack], out)
    if json:
        print_json([{"stack": one.stack, "target": one.target, "files": [str(path) for path in one.files],
                     "omissions": list(one.omissions)} for one in done])  # fmt: skip
        return
    print_table(["stack", "file"], [(one.stack, str(path)) for one in done for path in one.files])
    for one in done:
        say(f"{one.stack}: " + (f"written for {one.target}" if one.files else "not written"))
        for omission in one.omissions:
            say(f"{one.stack}: note: {omission}")
    say(f"check it with: scaling check {out}")


def register(app: typer.Typer) -> None:
    app.command()(export)
