"""OLMo-core's own classes: the dictionaries decoded, the model counted on the meta device, the schedule asked."""

import json
import sys
from pathlib import Path
from typing import Any

from fits.files import read_mapping
from scaling.cluster.run import Run
from scaling.handoff.comparison import Proof, compared_steps
from scaling.installation.extras import require, run_module


def prove(path: str | Path, run: Run) -> Proof:
    """What OLMo-core makes of a file that was read as ``run``.

    Raises:
        NotInstalled: OLMo-core is not here.
        UserError: its classes refuse the configuration.
    """
    require("olmo_core", "olmo-core")
    content = read_mapping(path)
    request = {"model": content["model"], "train_module": content["train_module"], "steps": compared_steps(run)}
    request["last"] = run.steps
    answer = json.loads(run_module("scaling.handoff.olmo_core.build", text=json.dumps(request)))
    rates = dict(zip(compared_steps(run), answer["rates"], strict=True))
    return Proof(answer["parameters"], rates, answer["active"])


def rate_at(run: Run, step: int) -> float:
    """The plan's rate for a step: OLMo-core counts the step itself in."""
    return run.learning_rate_after(step + 1)


def _prove_here(request: dict[str, Any]) -> dict[str, Any]:
    from olmo_core.nn.transformer import TransformerConfig  # pyright: ignore[reportMissingImports]
    from olmo_core.train.train_module import (  # pyright: ignore[reportMissingImports]
        TransformerTrainModuleConfig,
    )

    config = TransformerConfig.from_dict(request["model"])
    training: Any = TransformerTrainModuleConfig.from_dict(request["train_module"])
    built = sum(parameter.numel() for parameter in config.build(init_device="meta").parameters())
    rate = training.optim.lr
    rates = [float(training.scheduler.get_lr(rate, step + 1, request["last"])) for step in request["steps"]]
    return {"parameters": built, "active": config.num_active_params, "rates": rates}


if __name__ == "__main__":
    print(json.dumps(_prove_here(json.load(sys.stdin))))
