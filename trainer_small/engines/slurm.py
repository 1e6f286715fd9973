"""Runs as Slurm job arrays through submitit: preempted or out of time, a job writes checkpoints and queues again."""

import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fits.errors import UserError
from trainer_small.engines.command import run_command
from trainer_small.engines.engine import Listener, Resources, Task
from trainer_small.engines.jobs import train_by_jobs
from trainer_small.runs.metrics import append_metrics, read_metrics

WARNING_SECONDS = 120
"""How long before the end of its time Slurm warns a job: enough to write a checkpoint."""
_ALWAYS = 10**6


@dataclass
class SlurmTask:
    """What one element of an array does; pickled by submitit, so plain values only."""

    command: tuple[str, ...]

    def __call__(self) -> int:
        self._process = subprocess.Popen(self.command)
        # Not every site sends its warning before a preemption: SIGTERM means a checkpoint too.
        signal.signal(signal.SIGTERM, lambda *_: self._process.terminate())
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit on the warning: let the run write its checkpoint, then queue again."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        self._process.terminate()
        self._process.wait()
        return DelayedSubmission(SlurmTask(self.command))


class SlurmEngine:
    """Trains run folders as arrays of Slurm jobs.

    The jobs outlive this process: a second launcher finds them by ``folder/submitted.jsonl`` and the queue.

    Args:
        folder: for submitit's files and the jobs' output; on the file system that the nodes share.
        resources: of one run.
        max_parallel: runs at a time; the array's whole length when left out.
        runs_per_task: runs that one array element trains, ``resources.per_gpu`` at a time.
        options: of sbatch, such as ``{"partition": "gpu", "time": "4:00:00"}``.

    Raises:
        UserError: submitit or Slurm is not here.
    """

    poll_seconds = 5.0

    def __init__(
        self,
        folder: Path,
        resources: Resources,
        *,
        max_parallel: int | None = None,
        runs_per_task: int | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import submitit  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise UserError("submitit is not installed; install it with: pip install 'moe-scaling[slurm]'") from None
        if shutil.which("sbatch") is None:
            raise UserError("sbatch is not here; start the sweep on a login node, or choose another engine.")
        self._folder, self._resources, self._max_parallel = folder, resources, max_parallel
        self._pack = max(runs_per_task or resources.per_gpu, resources.per_gpu)
        self._submitted = folder / "submitted.jsonl"
        self._array_limit = array_limit()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=_ALWAYS)
        gpus = {"gpus_per_node": resources.gpus} if resources.gpus else {}
        self._executor.update_parameters(
            job_name="scaling",
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=resources.threads * resources.per_gpu * max(resources.gpus, 1),
            signal_delay_s=WARNING_SECONDS,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **(options or {})},
            **gpus,
        )

    def train(self, tasks: Sequence[Task], listener: Listener) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        advice = f"see the output of its jobs in {self._folder}."
        known = self._still_queued(tasks)
        return train_by_jobs(self, tasks, listener, pack=self._pack, known=known, advice=advice)

    def room(self, outstanding: int) -> int:
        if self._max_parallel is None or not outstanding:
            return self._array_limit
        return max(0, self._max_parallel - outstanding) // self._pack

    def submit(self, packs: Sequence[Sequence[Task]]) -> list[str]:
        parallel = len(packs) if self._max_parallel is None else max(1, self._max_parallel // self._pack)
        self._executor.update_parameters(array_parallelism=parallel)
        commands = [run_command([run.directory.resolve() for run in runs], self._resources) for runs in packs]
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(SlurmTask(tuple(command))) for command in commands]
        except Exception as error:
            reason = " ".join(str(error).split())
            if "limit" in reason.lower():  # MaxSubmitJobs and its kin: some jobs must end first
                return []
            raise UserError(f"sbatch refuses the jobs: {reason[-300:]}") from None
        for job, runs in zip(jobs, packs, strict=True):
            record = {"job": job.job_id, "runs": [run.run_id for run in runs]}
            append_metrics(self._submitted, record)
        return [job.job_id for job in jobs]

    def alive(self) -> set[str] | None:
        return queued_jobs()

    def _still_queued(self, tasks: Sequence[Task]) -> dict[str, list[Task]]:
        queued, wanted = queued_jobs() or set(), {task.run_id: task for task in tasks}
        known = {}
        for record in read_metrics(self._submitted):
            if record["job"] in queued:
                known[record["job"]] = [wanted[name] for name in record["runs"] if name in wanted]
        return known


def queued_jobs() -> set[str] | None:
    """This user's jobs that wait or run, array elements apart (``12_3``); ``None`` when Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def array_limit() -> int:
    """Elements that one array may have on this site; Slurm's own default where it does not say."""
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        shown = ""
    for line in shown.splitlines():
        if line.startswith("MaxArraySize"):
            return max(1, int(line.split("=")[1]) - 1)
    return 1000
