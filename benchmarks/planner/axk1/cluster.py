"""The parts of docs/case_axk1.md about the cluster and the stacks: memory, days, export."""

import tempfile
from pathlib import Path

from benchmarks.markdown import table
from fits.errors import UserError
from scaling.cluster.layout.assumptions import usual_assumptions
from scaling.cluster.layout.estimate import describe as describe_layout
from scaling.cluster.layout.search import Layouts, search_layouts
from scaling.handoff.export import export_plan
from scaling.handoff.megatron.read import read_megatron
from scaling.hf.count import read_architecture
from scaling.plan import Budget, Cluster, TrainingPlan

REPORTED = {"bf16": 261.27, "fp8": 288.97, "fp8 and a fused loss": 301.72}
"""TFLOP/s a GPU at PP16 EP8, as a review of the report has them (a secondary source)."""


def hardware(plan: TrainingPlan, cluster: Cluster) -> str:
    """What the cost model says of the built model, beside what was reported."""
    rows = []
    unfused = usual_assumptions()
    fused = unfused.model_copy(update={"logit_bytes": 0.5})
    for (name, reported), precision, assumed in zip(
        REPORTED.items(), ("bf16", "fp8", "fp8"), (unfused, unfused, fused), strict=True
    ):
        run = plan.model_copy(update={"precision": precision})
        every = search_layouts(run, cluster.gpus, "h200", assumptions=assumed)
        for what, layouts in (("PP16 EP8", every.only(pipeline=16, expert=8)), ("fastest", every)):
            rows.append([name, what, *_estimate(layouts), f"{reported:.0f}" if what == "PP16 EP8" else ""])
    budget = cluster.peak_flops_per_gpu * cluster.utilisation / 1e12
    needed = plan.model.flops_per_token(plan.sequence_length) * plan.tokens / cluster.gpus / 86400
    days = [f"{needed / (speed * 1e12):.0f}" for speed in REPORTED.values()]
    return f"""## Memory and days on 1024 H200

These are the estimates of [layout](layout.md) for the built model, with 4096 sequences per step and 10T tokens. Nothing
in them is fitted to this run. GiB are of the fullest GPU, which has 131 GiB.

{table(["", "layout", "degrees", "GiB", "TFLOP/s per GPU", "days for 10T", "reported TFLOP/s"], rows)}

At the reported speeds, 10T tokens of this model (exact FLOPs) take {", ".join(days)} days without stops. At the
{budget:.0f} TFLOP/s that a budget of 2.548e24 assumes, they take {needed / (budget * 1e12):.0f}. The report says 73 to
75 days, with 1536 GPUs towards the end. So the cluster did not do 75 days x 384 TFLOP/s, and the run of 10T tokens fits
the time at its last speed.

The estimate is faster than the report in every row (1.13 times in bf16, more in fp8). It models matrix products, links
and memory, but no stalls, stragglers or problems of young software."""


def _estimate(layouts: Layouts) -> list[str]:
    best = layouts.best
    assert best.memory is not None
    return [
        describe_layout(best.layout),
        f"{best.memory.total / 2**30:.0f}",
        f"{layouts.flops_per_gpu(best) / 1e12:.0f}",
        f"{layouts.days(best):.0f}",
    ]


def exported(plan: TrainingPlan, cluster: Cluster) -> str:
    """The plan written for two stacks and counted from their files."""
    layouts = search_layouts(plan, cluster.gpus, "h200").only(pipeline=16, expert=8)
    plan = layouts.in_plan(plan, layouts.best)
    plain = plan.model.model_copy(update={"moe_output_norm": False})
    rows = []
    for model, words in ((plan.model, "as built"), (plain, "without the norm after each MoE block")):
        for stack in ("megatron", "hf"):
            changed = TrainingPlan.model_validate(
                dict(plan) | {"model": model, "budget": Budget.exact(model, plan.tokens, plan.sequence_length, cluster)}
            )
            rows.append([words, stack, *_round_trip(changed, stack)])
    return f"""## Export

`scaling export` wrote these files; they were read back and counted. The reported totals are 519B and 33B active.

{table(["model", "stack", "files", "total from the files", "equal to the plan's"], rows)}

Megatron-LM has no norm after the MoE block. The export names it among what its files cannot say, and the files count
60 x 7168 parameters fewer. `scaling check` builds the same configs with the stacks' own classes, where installed."""


def _round_trip(plan: TrainingPlan, stack: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            (written,) = export_plan(plan, (stack,), folder)
        except UserError as error:
            return ["", "", str(error)]
        files = [each.name for each in written.files if each.name != "plan.yaml"]
        path = Path(folder) / files[0]
        model = read_megatron(path).model if stack == "megatron" else read_architecture(path)[0]
        total = model.params_total
        equal = "yes" if total == plan.model.params_total else f"off by {total - plan.model.params_total:+,}"
        return [", ".join(files), f"{total:,}", equal]
