"""torchtitan's own code: the exported package loaded by its ConfigManager, the layout validated, the model counted."""

import json
import sys
from pathlib import Path
from typing import Any

from scaling.cluster.run import Run
from scaling.handoff.comparison import Proof, compared_steps
from scaling.installation.extras import require, run_module


def prove(path: str | Path, run: Run) -> Proof:
    """What torchtitan makes of an exported ``config_registry.py`` that was read as ``run``.

    The package is executed, in a process of its own; a parallel layout is validated for its GPUs.

    Raises:
        NotInstalled: torchtitan, or the triton and torchao that it imports, are not here.
        UserError: torchtitan refuses the configuration.
    """
    for module in ("torchtitan", "triton", "torchao"):
        require(module, "torchtitan")
    request = {"package": str(Path(path).resolve().parent), "gpus": run.layout.gpus if run.layout else 0}
    request["steps"] = compared_steps(run)
    answer = json.loads(run_module("scaling.handoff.torchtitan.build", text=json.dumps(request)))
    return Proof(answer["parameters"], dict(zip(compared_steps(run), answer["rates"], strict=True)))


def rate_at(run: Run, step: int) -> float:
    """The plan's rate for a step: torchtitan counts the step itself in during the warm-up, and not after it."""
    return run.learning_rate_after(step + 1 if step < run.warmup_steps else step)


def _prove_here(package: Path, gpus: int, steps: list[int]) -> dict[str, Any]:
    import torch
    from torchtitan.config.manager import ConfigManager  # pyright: ignore[reportMissingImports]
    from torchtitan.distributed.parallel_dims import ParallelDims  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, str(package.parent))
    config: Any = ConfigManager().parse_args(["--module", package.name, "--config", "main_run"])
    if gpus:
        ParallelDims.from_config(config.parallelism, gpus)
        config.model_spec.model.update_from_config(config=config)
    with torch.device("meta"):
        model = config.model_spec.model.build()
    rate = config.optimizer.param_groups[-1].optimizer_kwargs["lr"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedulers = config.lr_scheduler.build(optimizers=[optimizer], training_steps=config.training.steps)
    factor = schedulers.schedulers[0].lr_lambdas[0]
    rates = [float(rate * factor(step)) for step in steps]
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "rates": rates}


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    print(json.dumps(_prove_here(Path(wanted["package"]), wanted["gpus"], wanted["steps"])))
