"""Which engine trains a sweep: its name and its settings, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fits.errors import UserError, nearest
from trainer_small.engines.engine import Engine, Resources

ENGINES = ("local", "slurm", "sbatch", "ray")


@dataclass(frozen=True)
class EngineChoice:
    """How a sweep is to be trained.

    ``workers`` is local alone (processes at a time); ``max_parallel``, ``runs_per_task`` and ``options`` (of sbatch)
    belong to Slurm, ``address`` and ``max_parallel`` to Ray.
    """

    name: str = "local"
    resources: Resources = field(default_factory=Resources)
    workers: int | None = None
    max_parallel: int | None = None
    runs_per_task: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise UserError(f"unknown engine '{self.name}'{nearest(self.name, ENGINES)}; choose {', '.join(ENGINES)}.")
        for key in ("workers", "max_parallel", "runs_per_task"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key} is {value}; it must be at least 1.")

    def engine(self, out: Path, runs: int, *, on_gpu: bool) -> Engine:
        """The engine for ``runs`` runs below ``out``; ``on_gpu`` says whether any would take a device.

        Raises:
            UserError: what the engine needs is not here.
        """
        if self.name == "slurm":
            from trainer_small.engines.slurm import SlurmEngine

            return SlurmEngine(
                out / "slurm",
                self.resources,
                max_parallel=self.max_parallel,
                runs_per_task=self.runs_per_task,
                options=self.options,
            )
        if self.name == "ray":
            from trainer_small.engines.ray_cluster import RayEngine

            return RayEngine(self.address, self.resources, max_parallel=self.max_parallel)
        from trainer_small.engines.devices import local_slots
        from trainer_small.engines.local import LocalEngine

        slots = local_slots(self.workers, self.resources, on_gpu=on_gpu)[:runs]
        return LocalEngine(slots, self.resources, out / "workers.log")
