"""One trunk, many horizons: a branch takes the state that another run kept before its decay (arXiv 2405.18392).

Until the decay starts nothing in a run depends on its horizon, so a branch ends like an independent run of that
length. Nothing here imports torch.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.result import is_final
from trainer_small.runs.checkpoint_files import is_intact, kept_checkpoints

_FROM_THE_HORIZON = (
    "tokens",
    "batch_law",
    "micro_batch_tokens",
    "decay_fraction",
    "final_learning_rate_fraction",
    "warmup_fraction",
    "warmup_tokens",
    "weight_decay_timescale",
)


class TrunkNotReady(UserError):
    """The trunk has not come to the point where the branch leaves; it will, when it is trained further."""


def find_trunk_state(directory: Path, config: RunConfig) -> Path:
    """The file with the state that the branch ``config`` in ``directory`` starts from.

    Raises:
        TrunkNotReady: the trunk is not that far yet.
        UserError: there is no such trunk, it differs in more than the horizon, or keeps no state there.
    """
    assert config.trunk is not None
    name, tokens = config.trunk.run_id, config.trunk.tokens
    there = directory.resolve().parent / name
    where = f"run {config.run_id}: trunk '{name}'"
    if not (there / "config.yaml").is_file():
        raise UserError(f"{where} has no folder {there}; train the trunk first, or mend trunk.run_id.")
    trunk = RunConfig.load(there / "config.yaml")
    if found := difference(before_decay(trunk), before_decay(config)):
        key, theirs, ours = found
        raise UserError(
            f"{where} has {key} {theirs}, the branch {ours}; up to the decay they must be the same run: "
            f"{'give both the same warmup_tokens' if key == 'training.warmup_steps' else 'make them agree'}."
        )
    step = config.first_step
    if step not in {trunk.training.step_at(point) for point in trunk.saved_at}:
        points = ", ".join(map(str, trunk.saved_at)) or "none"
        raise UserError(
            f"{where} keeps no state after {tokens} tokens (saved_at: {points}); add the point to saved_at "
            "before the trunk passes it, or branch at one of these."
        )
    for path in kept_checkpoints(there, step):
        if is_intact(path):
            return path
    if is_final(there):
        raise UserError(
            f"{where} has ended and its state after {tokens} tokens is not (or not intact) in {there}; "
            "train the trunk again in a new folder."
        )
    raise TrunkNotReady(f"{where} has not come to {tokens} tokens yet; train it further, then run the branch again.")


def before_decay(config: RunConfig) -> dict[str, Any]:
    """What decides a run's numbers up to its decay: its config without the horizon and what follows from it."""
    recipe = config.training
    training = recipe.model_dump(mode="json", exclude=set(_FROM_THE_HORIZON))
    training |= {"warmup_steps": recipe.warmup_steps, "weight_decay": recipe.decay_per_step / recipe.learning_rate}
    same = {"architecture", "seed", "device", "dtype", "compile", "activation_checkpointing", "parallel"}
    return config.model_dump(mode="json", include=same) | {"training": training}


def before_decay_digest(config: RunConfig) -> str:
    """sha256 of ``before_decay``."""
    return hashlib.sha256(json.dumps(before_decay(config), sort_keys=True).encode()).hexdigest()


def difference(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first key whose values differ, and the two values."""
    for key, value in one.items():
        if isinstance(value, dict):
            if found := difference(value, other[key], f"{prefix}{key}."):
                return found
        elif value != other[key]:
            return prefix + key, value, other[key]
    return None
