"""torchtitan's own code: the exported package loaded by its ConfigManager, the layout validated, the model counted."""

import sys
from pathlib import Path
from typing import Any

from scaling.extras import require, run_module


def count(path: str | Path, *, gpus: int | None = None) -> int:
    """Trainable parameters of the model that torchtitan builds from an exported ``config_registry.py``.

    The package is executed, in a process of its own.

    Args:
        path: the module inside its package.
        gpus: also validate the parallel layout for that many.

    Raises:
        NotInstalled: torchtitan, or the triton and torchao that it imports, are not here.
        UserError: torchtitan refuses the configuration.
    """
    for module in ("torchtitan", "triton", "torchao"):
        require(module, "torchtitan")
    package = Path(path).resolve().parent
    return int(run_module("scaling.stacks.torchtitan_build", str(package), str(gpus or 0)))


def _count_here(package: Path, gpus: int) -> int:
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
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    print(_count_here(Path(sys.argv[1]), int(sys.argv[2])))
