"""``scaling budget``: what a cluster can do in a number of days."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("budget")(budget)


def budget(
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")],
    days: Annotated[float, typer.Option(help="Days of training proper.")],
    gpu: Annotated[str, typer.Option(help="GPU type, such as h200.")] = "h200",
    mfu: Annotated[float, typer.Option(help="Model FLOPs utilisation of the dense bf16 peak.")] = 0.4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn a cluster and a number of days into a budget in FLOPs.

    Example: scaling budget --gpus 1024 --gpu h200 --days 75 --mfu 0.388
    """
    from scaling.budget import cluster_budget
    from scaling.console import print_json, print_table
    from scaling.plan import CONVENTIONS

    cluster = cluster_budget(gpus, gpu, days, mfu)
    if as_json:
        figures = {"hardware_flops": cluster.hardware_flops, "gpu_hours": cluster.gpu_hours}
        print_json(cluster.model_dump(mode="json") | figures)
        return
    rows = [
        ["peak of all GPUs", cluster.gpus * cluster.peak_flops_per_gpu, "FLOP/s, data sheet, dense bf16"],
        ["achieved per GPU", cluster.peak_flops_per_gpu * cluster.utilisation, "FLOP/s"],
        ["hardware_flops", cluster.hardware_flops, CONVENTIONS["hardware_flops"]],
        ["GPU-hours", cluster.gpu_hours, "GPUs x hours"],
    ]
    print_table(["quantity", "value", "meaning"], rows)
