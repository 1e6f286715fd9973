"""``scaling budget``: what a cluster can do in a number of days, and what a model costs of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scaling.cluster.budget import Cost
    from scaling.plan import Cluster


def register(app: typer.Typer) -> None:
    app.command("budget")(budget)


def budget(
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")],
    days: Annotated[float, typer.Option(help="Days of training proper.")],
    gpu: Annotated[str, typer.Option(help="GPU type, such as h200.")] = "h200",
    mfu: Annotated[float | None, typer.Option(help="Model FLOPs utilisation of the dense bf16 peak.")] = None,
    tflops: Annotated[float | None, typer.Option(help="Instead of --mfu: TFLOP/s that one GPU achieves.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="A config.json or plan.yaml: its cost in each accounting of FLOPs.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens of that model; a plan has its own.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens in a sequence; a plan has its own.")] = None,
    hardware: Annotated[Path | None, typer.Option(help="More GPU types, in YAML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn a cluster and a number of days into a budget in FLOPs, and say what each number means.

    Without --mfu and --tflops a utilisation of 0.4 is supposed.

    \b
    Example: scaling budget --gpus 1024 --gpu h200 --days 75 --tflops 384
             scaling budget --gpus 1024 --days 75 --mfu 0.39 \\
                 --model config.json --tokens 1e13
    """
    from fits.errors import UserError
    from scaling.cluster.budget import cluster_budget, costs_of_file, positive_flops
    from scaling.commands.console import print_json

    if tokens is not None and model is None:
        raise UserError("--tokens needs the --model that sees them; give a config.json or a plan.yaml.")
    supposed = 0.4 if mfu is None and tflops is None else mfu
    cluster = cluster_budget(gpus, gpu, days, supposed, tflops=tflops, hardware_file=hardware)
    seen = int(positive_flops(tokens, "--tokens")) if tokens else None
    costs = costs_of_file(model, cluster, tokens=seen, sequence_length=sequence_length) if model else []
    if as_json:
        figures = {"hardware_flops": cluster.hardware_flops, "gpu_hours": cluster.gpu_hours}
        models = {"costs": [each.model_dump(mode="json") for each in costs]} if costs else {}
        print_json(cluster.model_dump(mode="json") | figures | models)
        return
    _print(cluster.gpus * cluster.peak_flops_per_gpu, cluster, costs)


def _print(peak: float, cluster: "Cluster", costs: "list[Cost]") -> None:
    from fits.numbers import count
    from scaling.cluster.budget import scientific
    from scaling.commands.console import print_table, say

    achieved = cluster.peak_flops_per_gpu * cluster.utilisation
    rows = [
        ["GPU-hours", f"{cluster.gpu_hours:,.0f}", "GPUs x hours: what is paid for"],
        ["peak", f"{scientific(peak)} FLOP/s", "of all GPUs, data sheet, dense bf16"],
        ["utilisation", f"{cluster.utilisation:.1%}", f"of the peak: {achieved / 1e12:.4g} TFLOP/s a GPU"],
        ["hardware_flops", scientific(cluster.hardware_flops), "GPUs x seconds x peak x utilisation"],
    ]
    print_table(["", "", "meaning"], rows, title=f"{cluster.gpus} {cluster.gpu} for {cluster.days:g} days")
    say(
        "hardware_flops is what a training run may spend, in the accounting in which the\n"
        "utilisation was measured: speeds counted by 6 N D, by the exact count or with\n"
        "full attention are different speeds. scaling plan uses the exact count."
    )
    if not costs:
        say("Give --model and --tokens for what a model costs in each accounting.")
        return
    say()
    table = [
        [
            each.accounting,
            scientific(each.flops_per_token),
            scientific(each.train_flops) if each.train_flops else "-",
            f"{each.days:.1f}" if each.days else "-",
            count(each.tokens),
        ]
        for each in costs
    ]
    print_table(
        ["accounting", "a token", "train FLOPs", "days", "tokens in budget"], table, title="What the model costs"
    )
    say("exact: 3 x forward matrix products, router and head in, embedding look-up out.")
    say("full attention: with the masked half of its products, which fused kernels skip.")
