"""How a stack's file, and what the stack's own code says of it, are compared with the plan's run."""

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scaling.cluster.run import Run
from scaling.handoff.fields import shared_experts
from trainer_small.architecture import Architecture


@dataclass(frozen=True)
class Proof:
    """Counted and asked in the stack's own classes."""

    parameters: int
    rates: dict[int, float]
    """Step (from 0) -> the learning rate that the stack's scheduler gives it."""
    active_parameters: int | None = None
    """Where the stack counts them: those that one token passes through."""


def shared_by_width(model: Architecture) -> Architecture:
    """The same model, its shared experts counted as stacks do that hold one width: in experts where that divides."""
    width = model.num_shared_experts * model.shared_expert_ffn_size
    if not model.is_moe or not width:
        return model
    return model.model_copy(update=shared_experts(width, model.expert_ffn_size))


def differences_of_runs(written: Run, wanted: Run) -> dict[str, tuple[Any, Any]]:
    """What differs, the model aside: field -> what is written, what is wanted. The last bits of numbers may differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(Run):
        one, other = getattr(written, field.name), getattr(wanted, field.name)
        close = isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-12)
        if field.name != "model" and one != other and not close:
            found[field.name] = (one, other)
    return found


def compared_steps(run: Run) -> list[int]:
    """Steps at which a stack's schedule is compared with the plan's: ends, edges and an even comb over each part."""
    edges = [0, run.warmup_steps, run.steps - run.decay_steps, run.steps]
    found = {step + off for step in edges for off in (-1, 0, 1)}
    for first, last in pairwise(edges):
        found |= {first + (last - first) * part // 40 for part in range(41)}
    return sorted(step for step in found if 0 <= step < run.steps)
