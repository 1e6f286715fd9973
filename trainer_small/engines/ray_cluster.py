"""Runs as tasks of a Ray cluster; what a node that goes takes with it is started again on another."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from fits.errors import UserError
from trainer_small.engines.engine import Listener, Resources, Task
from trainer_small.engines.jobs import train_by_jobs


class RayEngine:
    """Trains run folders as Ray tasks, on folders that all nodes see.

    Args:
        address: of a running cluster (``auto`` finds the one of this machine); ``None`` starts one here for the call.
        resources: of one run; ``per_gpu`` runs share a device.
        max_parallel: runs at a time; as many as the cluster has room for when left out.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """

    poll_seconds = 1.0

    def __init__(self, address: str | None, resources: Resources, *, max_parallel: int | None = None) -> None:
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise UserError("Ray is not installed; install it with: pip install 'moe-scaling[ray]'") from None
        self._ray, self._resources, self._max_parallel = ray, resources, max_parallel
        self._started = not ray.is_initialized()
        if self._started:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UserError(f"no Ray cluster answers at '{address}' ({error}); give its address.") from None
        share = 0.0 if not resources.gpus else resources.gpus / resources.per_gpu
        self._train = ray.remote(num_cpus=resources.threads * max(resources.gpus, 1), num_gpus=share, max_retries=0)(
            _train_one
        )
        self._tasks: dict[str, Any] = {}

    def train(self, tasks: Sequence[Task], listener: Listener) -> bool:
        try:
            done = train_by_jobs(self, tasks, listener, advice="see the logs of Ray's workers.")
            if not done:
                self._stop()
            return done
        finally:
            if self._started:
                self._ray.shutdown()

    def room(self, outstanding: int) -> int:
        return 10**9 if self._max_parallel is None else max(0, self._max_parallel - outstanding)

    def submit(self, packs: Sequence[Sequence[Task]]) -> list[str]:
        names = []
        for (run,) in packs:
            task = self._train.remote(str(run.directory.resolve()), self._resources)
            names.append(task.hex())
            self._tasks[task.hex()] = task
        return names

    def alive(self) -> set[str]:
        if self._tasks:
            tasks = list(self._tasks.values())
            ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)
            for task in ended:
                del self._tasks[task.hex()]
        return set(self._tasks)

    def _stop(self) -> None:
        """A signal in each task, so that its run writes a checkpoint; those that wait are dropped."""
        tasks = list(self._tasks.values())
        for task in tasks:
            self._ray.cancel(task, force=False)
        self._ray.wait(tasks, num_returns=len(tasks), timeout=60, fetch_local=False)


def _train_one(directory: str, resources: Resources) -> None:
    """The task: in Ray's own worker process, which loads torch once for all the runs that it gets."""
    import subprocess

    from fits.errors import UserError
    from trainer_small.engines.command import run_command

    if resources.gpus > 1:
        subprocess.run(run_command([directory], resources), check=False)
        return
    from contextlib import suppress

    from trainer_small.engines.run_process import run_in_process

    with suppress(UserError):  # it stands in the run's folder
        run_in_process(directory, threads=resources.threads, wait=True)
