"""``scaling layout``: every parallel layout of a plan on a cluster, the fastest first."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scaling.cluster.layout.estimate import Candidate
    from scaling.cluster.layout.search import Layouts


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("layout")(layout)


def layout(
    plan: Annotated[Path, typer.Argument(help="A plan.yaml.")],
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")],
    gpu: Annotated[str, typer.Option(help="GPU type, such as h200.")] = "h200",
    top: Annotated[int, typer.Option(help="Rows to print.")] = 20,
    everything: Annotated[
        bool, typer.Option("--all", help="Print near twins too, which differ only in VP, micro-batch, recomputation.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write every layout here, with the reason against it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan with the fastest layout here.")] = None,
    tensor: Annotated[int | None, typer.Option(help="Only with this tensor parallel degree.")] = None,
    pipeline: Annotated[int | None, typer.Option(help="Only with as many pipeline stages.")] = None,
    virtual_pipeline: Annotated[int | None, typer.Option(help="Only with as many chunks a stage.")] = None,
    expert: Annotated[int | None, typer.Option(help="Only with this expert parallel degree.")] = None,
    expert_tensor: Annotated[int | None, typer.Option(help="Only with this expert tensor degree.")] = None,
    context: Annotated[int | None, typer.Option(help="Only with this context parallel degree.")] = None,
    micro_batch_size: Annotated[int | None, typer.Option(help="Only with this micro-batch.")] = None,
    recompute: Annotated[str | None, typer.Option(help="Only with none, selective or full.")] = None,
    assumptions: Annotated[
        Path | None, typer.Option(help="What the model assumes, in YAML, instead of its own.")
    ] = None,
    hardware: Annotated[Path | None, typer.Option(help="More GPU types, in YAML.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank every parallel layout of a plan on a cluster by the time of a step, and say why the others fail.

    TP, PP, VP, EP, ETP, CP, DP: tensor, pipeline, virtual pipeline, expert, expert tensor, context and data parallel
    degrees; those of 1 are left out.

    \b
    Example: scaling layout plan.yaml --gpus 1024 --gpu h200 --csv layouts.csv
             scaling layout plan.yaml --gpus 1024 --pipeline 16 --expert 8 \\
                 --out plan-with-layout.yaml
    """
    from fits.files import write_text
    from scaling.cluster.layout.assumptions import Assumptions
    from scaling.cluster.layout.search import search_layouts
    from scaling.commands.console import print_json, say
    from scaling.plan import TrainingPlan

    made = TrainingPlan.load(plan)
    assumed = Assumptions.load(assumptions) if assumptions else None
    found = search_layouts(made, gpus, gpu, assumptions=assumed, hardware_file=hardware)
    found = found.only(
        tensor=tensor,
        pipeline=pipeline,
        virtual_pipeline=virtual_pipeline,
        expert=expert,
        expert_tensor=expert_tensor,
        context=context,
        micro_batch_size=micro_batch_size,
        recompute=recompute,
    )
    if csv:
        write_text(csv, found.table.to_csv(index=False, float_format="%.6g"))
    best = found.best
    shown = (found.feasible if everything else found.without_twins()).head(top)
    if out:
        found.in_plan(made, best).save(
            out, heading=f"Training plan with its layout. To check it: scaling check {out.name}"
        )
    if as_json:
        print_json(_as_json(found, best, shown))
    else:
        _print(found, best, shown)
        for path in (csv, out):
            if path:
                say(f"wrote {path}")


def _print(found: "Layouts", best: "Candidate", shown: Any) -> None:
    from scaling.commands.console import print_table, say

    count = len(found.table)
    say(f"{len(found.feasible)} of {count} layouts can be used on {found.gpus} {found.gpu_name}; the fastest:")
    rows = [_row(found, found.candidate(row), int(shown["rank"][row])) for row in shown.index]
    print_table(["", "layout", "mb", "recompute", "  GiB", " days", "TFLOP/s", "  MFU"], rows)
    say("mb: sequences in a micro-batch. GiB: on the fullest GPU. TFLOP/s: of one GPU.")
    say()
    _print_memory(found, best)
    _print_time(found, best)
    reasons = [[number, reason] for reason, number in found.reasons().items()]
    if reasons:
        print_table(["layouts", "why they cannot be used"], reasons, title="The others")
    say("Speeds are a model's: docs/layout.md shows how far it was off on published runs.")


def _print_memory(found: "Layouts", best: "Candidate") -> None:
    from scaling.cluster.layout.megatron_memory import megatron_state_bytes
    from scaling.cluster.layout.memory import GIB
    from scaling.commands.console import print_table, say

    memory = best.memory
    assert memory is not None
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "computed again": memory.recomputed,
        "logits": memory.logits,
        "all": memory.total,
        "usable": memory.usable,
    }
    rows = [[name, f"{value / GIB:6.1f}"] for name, value in parts.items()]
    megatron = megatron_state_bytes(found.run.model, best.layout, sharded_optimizer=found.assumptions.sharded_optimizer)
    rows.append(["weights, gradients, optimizer", f"{memory.states / GIB:6.1f}"])
    rows.append(["the same by Megatron-LM's own estimate", f"{megatron / GIB:6.1f}"])
    stage = f"stage {memory.stage + 1} of {best.layout.pipeline}"
    print_table(["", "   GiB"], rows, title=f"The fastest: its fullest GPU, in {stage}")
    say()


def _print_time(found: "Layouts", best: "Candidate") -> None:
    from dataclasses import asdict

    from scaling.commands.console import print_table, say

    time = best.time
    assert time is not None
    parts = sorted(asdict(time).items(), key=lambda part: -part[1])
    rows = [[name.replace("_", " "), f"{value:7.2f}", f"{value / time.total:5.1%}"] for name, value in parts if value]
    rows.append(["all", f"{time.total:7.2f}", f"x {found.run.steps} steps"])
    print_table(["", "seconds", "share"], rows, title="The fastest: where the time of a step goes")
    say()


def _row(found: "Layouts", each: "Candidate", rank: int) -> list[Any]:
    from scaling.cluster.layout.estimate import describe
    from scaling.cluster.layout.memory import GIB

    assert each.memory is not None
    return [
        rank,
        describe(each.layout),
        each.layout.micro_batch_size,
        each.layout.recompute,
        f"{each.memory.total / GIB:5.1f}",
        f"{found.days(each):5.1f}",
        f"{found.flops_per_gpu(each) / 1e12:7.0f}",
        f"{found.mfu(each):5.1%}",
    ]


def _as_json(found: "Layouts", best: "Candidate", shown: Any) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    from scaling.cluster.layout.megatron_memory import megatron_state_bytes

    assert best.memory is not None and best.time is not None
    megatron = megatron_state_bytes(found.run.model, best.layout, sharded_optimizer=found.assumptions.sharded_optimizer)
    return {
        "gpus": found.gpus,
        "gpu": found.gpu_name,
        "layouts": len(found.table),
        "feasible": len(found.feasible),
        "reasons": found.reasons(),
        "best": {
            "layout": best.layout.model_dump(mode="json"),
            "days": found.days(best),
            "tflops_per_gpu": found.flops_per_gpu(best) / 1e12,
            "mfu": found.mfu(best),
            "memory_bytes": asdict(best.memory) | {"states": best.memory.states, "total": best.memory.total},
            "megatron_state_bytes": float(megatron),
            "step_seconds": asdict(best.time) | {"total": best.time.total},
        },
        "top": json.loads(shown.drop(columns="reason").to_json(orient="records")),
        "assumptions": found.assumptions.model_dump(mode="json"),
    }
