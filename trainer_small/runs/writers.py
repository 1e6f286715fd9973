"""Where a run's metrics also go: TensorBoard, Weights & Biases, trackio. Each is imported only when it is asked for."""

import importlib
from pathlib import Path
from typing import Any, Literal, Protocol

from fits.errors import UserError
from trainer_small.config import RunConfig

WriterName = Literal["tensorboard", "wandb", "trackio"]


class Writer(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_writers(directory: Path, config: RunConfig, first_step: int) -> list[Writer]:
    """The writers of ``config.log_to``.

    Args:
        directory: the run's folder; TensorBoard's files go into its ``tensorboard``.
        first_step: what was written after this step by an earlier process will be written again.

    Raises:
        UserError: a writer's package is not installed.
    """
    return [
        _TensorBoard(directory, first_step) if name == "tensorboard" else _Tracker(name, directory, config)
        for name in config.log_to
    ]


class _TensorBoard:
    def __init__(self, directory: Path, first_step: int) -> None:
        _import("tensorboard", "tensorboard")
        module = _import("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """W&B, and trackio, which speaks as W&B does. The project is the folder of the runs; a resumed run carries on."""

    def __init__(self, name: Literal["wandb", "trackio"], directory: Path, config: RunConfig) -> None:
        module = _import(name, name)
        keys: dict[str, Any] = {"id": config.run_id} if name == "wandb" else {}
        self._run = module.init(
            project=directory.resolve().parent.name or "runs",
            name=config.run_id,
            config=config.model_dump(mode="json"),
            resume="allow",
            **keys,
        )
        self._finish = module.finish

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._finish()


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"log_to '{extra}' needs a package that is not installed; install it with: "
            f"pip install 'moe-scaling[{extra}]', or take it out of log_to."
        ) from None
