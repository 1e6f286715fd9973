"""Why a cluster holds no layout of a run: what is short and by how much, in one sentence."""

from bisect import bisect_left
from typing import Any

from scaling.cluster.hardware import Gpu
from scaling.cluster.layout.assumptions import Assumptions
from scaling.cluster.layout.bound import least_bytes_per_gpu
from scaling.cluster.layout.estimate import kind_of
from scaling.cluster.run import Run


def why_none(run: Run, gpus: int, gpu_name: str, gpu: Gpu, assumptions: Assumptions, table: Any) -> str:
    """The nearest miss: the layout that needs the least memory, or the fault that stops most."""
    cluster = f"{gpus} {gpu_name}"
    if not len(table) or not table["memory_gib"].notna().any():
        # Sizes of the model rule out odd degrees on every cluster: another reason says more.
        reasons = table["reason"][~table["reason"].str.startswith("model.")]
        reasons = reasons if len(reasons) else table["reason"]
        kinds = reasons.map(kind_of)
        usual = reasons[kinds == kinds.mode().iloc[0]].iloc[0] if len(reasons) else "no degrees make it up"
        return f"no split of the model and the batch works on {cluster}; most often {usual}."
    least = table.loc[table["memory_gib"].idxmin()]
    short = least["memory_gib"] - least["usable_gib"]
    if short <= 0:  # it fits, and still cannot be used
        return f"no layout of {cluster} can be used; the leanest fails because {least['reason']}."
    total = run.model.params_total
    names = {"tensor": "TP", "pipeline": "PP", "expert": "EP", "expert_tensor": "ETP", "context": "CP"}
    degrees = " ".join(f"{short_name}{least[name]:.0f}" for name, short_name in names.items() if least[name] > 1)
    return (
        f"{cluster} cannot hold these {total / 1e9:.4g}B parameters: the leanest layout ({degrees or 'no splitting'}, "
        f"micro-batch {least['micro_batch_size']:.0f}, recompute {least['recompute']}) needs "
        f"{least['memory_gib']:.1f} GiB a GPU, {short:.1f} GiB more than the {least['usable_gib']:.1f} GiB usable; "
        f"no fewer than {_least_gpus(run, gpu, assumptions)} such GPUs could do; take more, larger ones or a smaller "
        "model."
    )


def _least_gpus(run: Run, gpu: Gpu, assumptions: Assumptions) -> int:
    """GPUs below which not even the lower bound of a layout's bytes fits."""
    usable = gpu.memory_bytes * assumptions.usable_memory
    model = run.model
    routed = model.params_by_role()["routed_experts"]

    def least(gpus: int) -> float:
        return least_bytes_per_gpu(
            model.params_total,
            gpus,
            params_routed=routed,
            num_layers=model.num_layers,
            gpus_per_node=gpu.gpus_per_node,
            assumptions=assumptions,
        )

    many = 1
    while least(many) > usable and many < 2**30:
        many *= 2
    return bisect_left(range(many + 1), True, lo=1, key=lambda gpus: bool(least(gpus) <= usable))
