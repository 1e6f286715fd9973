"""``scaling plan``: a training plan for a budget."""

from pathlib import Path
from typing import Annotated

import typer

from fits.errors import UserError


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("plan")(plan)


def plan(
    law: Annotated[str | None, typer.Option(help="A law.json, or published:NAME, such as published:tian.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan here (YAML).")] = None,
    flops: Annotated[str | None, typer.Option(help="FLOPs to spend, such as 1e21.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Instead of --flops: number of GPUs.")] = None,
    gpu: Annotated[str, typer.Option(help="GPU type, for memory, time and the cost of serving.")] = "h200",
    days: Annotated[float | None, typer.Option(help="Days of training proper.")] = None,
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation of the dense bf16 peak.")] = 0.4,
    constraints: Annotated[Path | None, typer.Option(help="Choices and limits in YAML (docs/plan.md).")] = None,
    sweep: Annotated[Path | None, typer.Option(help="The sweep behind the law: its choices and its recipe.")] = None,
    vocab_study: Annotated[Path | None, typer.Option(help="The study folder: bytes per token of each size.")] = None,
    bytes_per_token: Annotated[
        float | None, typer.Option(help="Bytes of text in a token, for a law in bytes without a study.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Hold the vocabulary at this size.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens in a sequence of the big run.")] = None,
    inference_tokens: Annotated[
        float | None, typer.Option(help="Tokens to be served, paid from the same budget.")
    ] = None,
    unique_tokens: Annotated[float | None, typer.Option(help="Tokens there are; more are repeats.")] = None,
    max_params_total: Annotated[float | None, typer.Option(help="Cap on total parameters.")] = None,
    max_params_active: Annotated[float | None, typer.Option(help="Cap on active parameters.")] = None,
    max_decode_seconds: Annotated[
        float | None, typer.Option(help="Cap on GPU-seconds to generate a million tokens.")
    ] = None,
    ramp: Annotated[bool, typer.Option("--batch-ramp", help="Let the batch grow at the start.")] = False,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a plan and do no more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose the model, the tokens and the recipe with the lowest predicted loss for a budget.

    \b
    Example: scaling plan --law published:tian --gpus 1024 --gpu h200 \\
        --days 75 --mfu 0.388 --max-params-total 520e9 --out plan.yaml
    """
    from scaling.cluster.budget import cluster_budget, positive_flops
    from scaling.commands.console import print_json, say, working
    from scaling.commands.plan_tables import print_plan
    from scaling.plan import TrainingPlan
    from scaling.planner.planner import plan_for

    if schema:
        print_json(TrainingPlan.model_json_schema())
        return
    if law is None:
        raise UserError("give the law with --law: a law.json of yours, or published:tian.")
    if (flops is None) == (gpus is None or days is None):
        raise UserError("give the budget either as --flops or as --gpus and --days, such as --flops 1e21.")
    cluster = cluster_budget(gpus, gpu, days, mfu) if gpus is not None and days is not None else None
    with working("searching"):
        made = plan_for(
            law,
            cluster.hardware_flops if cluster else positive_flops(flops or ""),
            cluster=cluster,
            sweep_file=sweep,
            study_directory=vocab_study,
            bytes_per_token=bytes_per_token,
            vocab_size=vocab_size,
            sequence_length=sequence_length,
            constraints_file=constraints,
            max_params_total=max_params_total,
            max_params_active=max_params_active,
            max_decode_seconds=max_decode_seconds,
            inference_tokens=inference_tokens,
            unique_tokens=unique_tokens,
            gpu=gpu,
            ramp=ramp,
            level=level,
            name=out.stem if out else "plan",
        )
    if out:
        made.save(out, heading="Training plan. Edit by hand if you must, then: scaling check " + out.name)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    print_plan(made)
    if out:
        say(f"wrote {out}")
