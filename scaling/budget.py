"""From a cluster and a number of days to a budget in FLOPs."""

from fits.errors import UserError
from scaling.hardware import gpu as find_gpu
from scaling.plan import Cluster


def cluster_budget(gpus: int, gpu: str, days: float, mfu: float) -> Cluster:
    """What a cluster can do: ``.hardware_flops`` = GPUs x seconds x peak x utilisation.

    Args:
        gpus: number of accelerators.
        gpu: a name in ``scaling/hardware.yaml``.
        days: wall time of training proper.
        mfu: model FLOPs utilisation of the dense bf16 peak, above 0 and at most 1.

    Raises:
        UserError: a value makes no sense, or the GPU is unknown.
    """
    for name, value in (("gpus", gpus), ("days", days), ("mfu", mfu)):
        if not value > 0:
            raise UserError(f"{name} is {value:g}; give a number above 0.")
    if mfu > 1:
        raise UserError(f"mfu is {mfu:g}; it is a fraction of the peak, such as 0.39.")
    peak = find_gpu(gpu).peak_flops
    return Cluster(gpus=gpus, gpu=gpu.lower(), days=days, peak_flops_per_gpu=peak, utilisation=mfu)


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


def short(flops: float) -> str:
    """A budget in a sentence: 2.55e24."""
    return f"{flops:.3g}".replace("e+", "e")
