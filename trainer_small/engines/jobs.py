"""Runs as the jobs of a cluster: submit, watch the run folders, submit again what was lost."""

import time
from collections.abc import Sequence
from typing import Protocol

from trainer_small.engines.engine import Deaths, Listener, RunEvent, Task
from trainer_small.engines.stopping import Stopping
from trainer_small.result import read_result
from trainer_small.sweeps.sweep_status import run_status


class Cluster(Protocol):
    """What a scheduler must be able to do; a job is known by its name."""

    poll_seconds: float

    def room(self, outstanding: int) -> int:
        """How many more jobs may be submitted while so many runs are in jobs."""
        ...

    def submit(self, packs: Sequence[Sequence[Task]]) -> list[str]:
        """One job a pack of runs; fewer names than packs when the scheduler takes no more now."""
        ...

    def alive(self) -> set[str] | None:
        """Jobs that wait or run; ``None`` when the scheduler does not answer."""
        ...


def train_by_jobs(
    cluster: Cluster,
    tasks: Sequence[Task],
    listener: Listener,
    *,
    pack: int = 1,
    known: dict[str, list[Task]] | None = None,
    advice: str,
) -> bool:
    """Train all runs as jobs; returns False when a signal stopped it before the end.

    Args:
        pack: runs in one job.
        known: jobs that an earlier launcher submitted and that are alive.
        advice: where to look when a run was lost again and again.
    """
    jobs = dict(known or {})
    follow, deaths = _Follow(listener), Deaths()
    taken = {task for runs in jobs.values() for task in runs}
    waiting = [task for task in tasks if task not in taken]
    with Stopping() as stopping:
        while not stopping:
            for task in waiting:
                task.give_up()
            waiting = [task for task in waiting if not follow.ended(task)]
            ready = [task for task in waiting if task.is_ready()]
            if ready and (room := cluster.room(sum(map(len, jobs.values())))) > 0:
                packs = [ready[at : at + pack] for at in range(0, min(len(ready), room * pack), pack)]
                for name, runs in zip(cluster.submit(packs), packs, strict=False):
                    jobs[name] = runs
                waiting = [task for task in waiting if task not in {run for runs in jobs.values() for run in runs}]
            if not jobs and not waiting:
                return True
            time.sleep(cluster.poll_seconds)
            alive = cluster.alive()
            for name, runs in list(jobs.items()):
                left = [task for task in runs if not follow.ended(task)]
                if alive is None or name in alive:
                    for task in left:
                        follow.look(task)
                    continue
                del jobs[name]
                for task in left:
                    event = deaths.happened(task.directory, "was lost with its job", advice)
                    listener(event)
                    if event.status == "lost":
                        waiting.append(task)
        return False


class _Follow:
    """Tells what happens to runs by looking at their folders."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._steps: dict[Task, int] = {}
        self._ended: set[Task] = set()

    def ended(self, task: Task) -> bool:
        """Whether the run needs no more job; tells so once."""
        if task in self._ended:
            return True
        result = read_result(task.directory)
        if result is None:
            return False
        self._ended.add(task)
        self._listener(RunEvent(task.run_id, result.status, result.step, reason=result.reason))
        return True

    def look(self, task: Task) -> None:
        at = run_status(task.directory)
        if at.status == "running" and at.step != self._steps.get(task):
            self._steps[task] = at.step
            self._listener(RunEvent(task.run_id, "running", at.step, at.loss, at.tokens_per_second))
