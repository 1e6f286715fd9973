"""``scaling plan``: a training plan for a budget."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fits.errors import UserError

if TYPE_CHECKING:
    from scaling.plan import Neighbour, TrainingPlan


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("plan")(plan)


def plan(
    law: Annotated[str, typer.Option(help="A law.json, or published:tian for published laws alone.")],
    out: Annotated[Path | None, typer.Option(help="Write the plan here (YAML).")] = None,
    flops: Annotated[str | None, typer.Option(help="Training FLOPs to spend, such as 1e21.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Instead of --flops: number of GPUs.")] = None,
    gpu: Annotated[str, typer.Option(help="GPU type.")] = "h200",
    days: Annotated[float | None, typer.Option(help="Days of training proper.")] = None,
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation of the dense bf16 peak.")] = 0.4,
    sweep: Annotated[Path | None, typer.Option(help="The sweep behind the law: its choices and its recipe.")] = None,
    vocab_study: Annotated[Path | None, typer.Option(help="The study folder: bytes per token of each size.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Hold the vocabulary at this size.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens in a sequence of the big run.")] = None,
    constraints: Annotated[Path | None, typer.Option(help="A search space in YAML instead of the sweep's.")] = None,
    max_params_total: Annotated[float | None, typer.Option(help="Cap on total parameters.")] = None,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose the model, the tokens and the recipe with the lowest predicted loss for a budget.

    \b
    Example: scaling plan --law published:tian --gpus 1024 --gpu h200 \\
        --days 75 --mfu 0.388 --out plan.yaml
    """
    from scaling.budget import cluster_budget, positive_flops
    from scaling.console import print_json, say
    from scaling.planning import plan_for

    if (flops is None) == (gpus is None or days is None):
        raise UserError("give the budget either as --flops or as --gpus and --days, such as --flops 1e21.")
    cluster = cluster_budget(gpus, gpu, days, mfu) if gpus is not None and days is not None else None
    made = plan_for(
        law,
        cluster.hardware_flops if cluster else positive_flops(flops or ""),
        cluster=cluster,
        sweep_file=sweep,
        study_directory=vocab_study,
        vocab_size=vocab_size,
        sequence_length=sequence_length,
        constraints_file=constraints,
        max_params_total=max_params_total,
        level=level,
        name=out.stem if out else "plan",
    )
    if out:
        made.save(out, heading="Training plan. Edit by hand if you must, then: scaling check " + out.name)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    _print(made)
    if out:
        say(f"wrote {out}")


def _print(made: "TrainingPlan") -> None:
    from scaling.console import count, print_table, quantity, say

    model, prediction, budget = made.model, made.prediction, made.budget
    say(made.question)
    rows = [
        ["model", f"{count(model.params_total)} parameters, {count(model.params_active)} active"],
        ["hidden_size x layers", f"{model.hidden_size} x {model.num_layers}, {model.num_attention_heads} heads"],
        [
            "experts",
            f"{model.num_experts} of {model.expert_ffn_size} wide, {model.experts_per_token} a token, "
            f"{model.num_shared_experts} shared, first {model.num_dense_layers} layers dense",
        ],
        ["activation ratio, granularity", f"{model.activation_ratio:.4f}, {model.granularity:.3g}"],
        ["vocabulary", f"{model.vocab_size} ({made.tokenizer.source})"],
        ["tokens", f"{count(made.tokens)} in sequences of {made.sequence_length}"],
        ["batch", f"{count(made.batch_tokens)} tokens, {made.steps} steps"],
        ["learning rate", f"{quantity(made.optimizer.learning_rate)} ({made.schedule.kind})"],
        ["train_flops", f"{quantity(budget.train_flops)} ({budget.accounting})"],
        ["6 N D", quantity(budget.six_n_d)],
        ["hardware_flops", quantity(budget.hardware_flops) if budget.hardware_flops else "no cluster was given"],
        [
            f"predicted {prediction.quantity}",
            f"{prediction.value:.4f}, {prediction.low:.4f} to {prediction.high:.4f} {prediction.unit}",
        ],
        ["", prediction.interval],
        ["extrapolation", f"{made.extrapolation.decades_in_train_flops:.1f} decades of compute beyond the law's runs"],
    ]
    print_table(["", "plan"], rows)
    if made.decision:
        intervals = [[name, quantity(each.low), quantity(each.high)] for name, each in made.decision.items()]
        print_table(["decision", "low", "high"], intervals, title="Where the draws of the law put each decision")
    if made.neighbours:
        off = [[each.change, _percent(each.regret), *_interval(each)] for each in made.neighbours]
        print_table(["instead", "compute", "low", "high"], off, title="What it costs to be off, for the same loss")
    opinions = [
        [
            each.law,
            count(each.params_active) if each.params_active else "",
            count(each.tokens) if each.tokens else "",
            quantity(each.learning_rate) if each.learning_rate else "",
            count(each.batch_tokens) if each.batch_tokens else "",
            f"{each.decades_out_of_range:.1f}" if each.decades_out_of_range is not None else "",
        ]
        for each in made.advice
    ]
    columns = ["by", "active", "tokens", "rate", "batch", "decades out"]
    print_table(columns, opinions, title="The spread of opinion at this budget, each law in its own convention")
    for warning in made.warnings:
        say(f"! {warning}")


def _interval(neighbour: "Neighbour") -> list[str]:
    """Published laws give no interval; a fitted one without an upper end never reaches the loss there."""
    if neighbour.low is None and neighbour.regret is not None:
        return ["", ""]
    return [_percent(neighbour.low), _percent(neighbour.high)]


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{value:+.1%}"
