"""What all runs of a designed sweep share: the recipe they are trained by, and how and where they compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fits.errors import UserError
from fits.files import read_mapping
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.ladder import Experts, Family
from trainer_small.training_config import TrainingConfig

BASE_EXPERTS = Experts(num_experts=8, experts_per_token=2, num_shared_experts=1, granularity=2)
"""The routing that small sweeps change one thing from."""

# Short runs need a faster balance: at 32 experts the usual 1e-3 leaves the load uneven to the end.
PROXY_RECIPE = TrainingConfig(tokens=1, learning_rate=2**-7, batch_tokens=1024, balancing_rate=0.01)
"""Of small runs; the tokens are each run's own."""

Recipe = Mapping[str, Any] | str | Path | None
"""Keys of a run's ``config.yaml`` over those of ``PROXY_RECIPE``, or a YAML file of them; None leaves these."""

_EACH_RUNS_OWN = ("run_id", "purpose", "architecture", "seed", "saved_at", "trunk", "data", "schema_version")
_NO_END = 2**60


def template(recipe: Recipe, **defaults: Any) -> RunSpec:
    """A run of some shape that all runs of a sweep are copies of, but for what the design sets.

    Args:
        recipe: such as ``{"training": {"optimizer": "muon"}, "dtype": "bfloat16"}``.
        defaults: keys of a run that the recipe may replace.

    Raises:
        UserError: names the file and the key that is wrong, or that the design sets itself.
    """
    source = recipe if isinstance(recipe, str | Path) else "the recipe"
    data = dict(read_mapping(recipe) if isinstance(recipe, str | Path) else recipe or {})
    for key in ("training", "evaluation"):
        if not isinstance(data.setdefault(key, {}), Mapping):
            raise UserError(f"{source}: key '{key}' is {data[key]!r}; give keys and values below it.")
    for key in _EACH_RUNS_OWN:
        if key in data:
            raise UserError(f"{source}: key '{key}' is each run's own, which the design sets; remove it.")
    for key in ("tokens", "batch_law"):
        if key in data["training"]:
            raise UserError(f"{source}: the design sets training.{key} of each run; remove it.")
    own = {
        "run_id": "recipe",
        "architecture": Family().shape(64, 4, BASE_EXPERTS, 512),
        "training": PROXY_RECIPE.model_dump() | dict(data["training"]) | {"tokens": _NO_END},
        "evaluation": defaults.get("evaluation", {}) | dict(data["evaluation"]),
    }
    return RunSpec.parse(defaults | data | own, source)


def run_by(
    shared: RunSpec, run_id: str, *, purpose: str, architecture: Architecture, seed: int, training: Mapping[str, Any]
) -> RunSpec:
    """A copy of ``template``'s run with its own shape and seed, and these keys of its training.

    Raises:
        UserError: the recipe does not suit the run, such as a batch ramp that is longer.
    """
    own = {
        "run_id": run_id,
        "purpose": purpose,
        "architecture": architecture,
        "seed": seed,
        "training": TrainingConfig.parse(shared.training.model_dump() | dict(training), f"run {run_id}"),
    }
    return RunSpec.parse(dict(shared) | own, f"run {run_id}")
