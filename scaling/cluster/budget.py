"""From a cluster and a number of days to a budget in FLOPs, and what a model costs in each accounting of FLOPs."""

from pathlib import Path

from pydantic import PositiveFloat

from fits.errors import UserError
from fits.files import read_mapping
from fits.schema import Schema
from scaling.cluster.hardware import gpu as find_gpu
from scaling.hf.count import read_architecture
from scaling.plan import Cluster, TrainingPlan
from trainer_small.architecture import Architecture


class Cost(Schema):
    """What a model costs in one accounting of its FLOPs."""

    accounting: str
    flops_per_token: PositiveFloat
    train_flops: PositiveFloat | None
    """For the tokens asked about, if any."""
    days: PositiveFloat | None
    """Of the cluster, at the FLOP/s given, for those tokens."""
    tokens: PositiveFloat
    """That the whole budget pays for."""


def cluster_budget(
    gpus: int,
    gpu: str,
    days: float,
    mfu: float | None = None,
    *,
    tflops: float | None = None,
    hardware_file: str | Path | None = None,
) -> Cluster:
    """What a cluster can do: ``.hardware_flops`` = GPUs x seconds x peak x utilisation.

    Args:
        gpus: number of accelerators.
        gpu: a name in ``scaling/cluster/hardware.yaml`` or in ``hardware_file``.
        days: wall time of training proper.
        mfu: model FLOPs utilisation of the dense bf16 peak, above 0 and at most 1.
        tflops: instead of ``mfu``, 1e12 FLOP/s that one GPU achieves.

    Raises:
        UserError: a value makes no sense, or the GPU is unknown.
    """
    for name, value in (("gpus", gpus), ("days", days), ("mfu", mfu), ("tflops", tflops)):
        if value is not None and not value > 0:
            raise UserError(f"{name} is {value:g}; give a number above 0.")
    if (mfu is None) == (tflops is None):
        raise UserError("give either mfu, such as 0.39, or tflops of one GPU, such as 384.")
    peak = find_gpu(gpu, hardware_file).peak_flops
    utilisation = mfu if mfu is not None else (tflops or 0.0) * 1e12 / peak
    if mfu is not None and mfu > 1:
        raise UserError(f"mfu is {mfu:g}; it is a fraction of the peak, such as 0.39.")
    if utilisation > 1:
        raise UserError(f"tflops is {tflops:g}, above the {peak / 1e12:g} of a {gpu}'s dense bf16 peak; lower it.")
    return Cluster(gpus=gpus, gpu=gpu.lower(), days=days, peak_flops_per_gpu=peak, utilisation=utilisation)


def costs(
    model: Architecture, cluster: Cluster, *, tokens: int | None = None, sequence_length: int = 4096
) -> list[Cost]:
    """One model on one cluster in three accountings of its FLOPs, which differ by up to 30 %.

    A utilisation belongs to the accounting that it was measured in: FLOP/s counted by 6 N D do not buy the tokens that
    the exact count gives.
    """
    speed = cluster.hardware_flops / cluster.days
    accountings = {
        "exact, causal attention": model.flops_per_token(sequence_length),
        "exact, full attention": model.flops_per_token(sequence_length, causal=False),
        "6 N D, N active parameters": 6 * model.params_active,
    }
    return [
        Cost(
            accounting=name,
            flops_per_token=float(each),
            train_flops=float(each) * tokens if tokens else None,
            days=float(each) * tokens / speed if tokens else None,
            tokens=cluster.hardware_flops / each,
        )
        for name, each in accountings.items()
    ]


def costs_of_file(
    path: str | Path, cluster: Cluster, *, tokens: int | None = None, sequence_length: int | None = None
) -> list[Cost]:
    """``costs`` of a config.json or a plan.yaml; a plan brings its own tokens and sequence length.

    Raises:
        UserError: the file is missing, of a type not known, or impossible.
    """
    model, _, _ = read_architecture(path)
    length = sequence_length
    if Path(path).is_file() and "batch_tokens" in (given := read_mapping(path)):
        plan = TrainingPlan.parse(given, path)
        tokens, length = tokens or plan.tokens, length or plan.sequence_length
    return costs(model, cluster, tokens=tokens, sequence_length=length or 4096)


def positive_flops(text: str, name: str = "--flops") -> float:
    """A budget as people write it: ``1e21``, ``2.5E24``, ``1_000_000``.

    Raises:
        UserError: it is no number, or not above 0.
    """
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        raise UserError(f"{name} is '{text}'; give a number of FLOPs such as 1e21.") from None
    if not 0 < value < float("inf"):
        raise UserError(f"{name} is {text}; a budget must be above 0 and finite.")
    return value


def scientific(value: float) -> str:
    """A large number for reading, in four digits: 2.548e24."""
    return f"{value:.3e}".replace("e+", "e")


def short(flops: float) -> str:
    """A budget in a sentence: 2.55e24."""
    return f"{flops:.3g}".replace("e+", "e")
