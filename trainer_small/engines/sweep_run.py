"""Carry out a sweep: lay out its run folders, prepare tokens once, train what is not done, report on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fits.errors import UserError
from trainer_small.config import RunConfig, RunSpec
from trainer_small.data.tokens import prepare_tokens
from trainer_small.engines.choice import EngineChoice
from trainer_small.engines.engine import RunEvent, Task
from trainer_small.engines.sbatch import write_script
from trainer_small.result import is_final, result_path
from trainer_small.runs.attempts import try_again_if_diverged
from trainer_small.runs.lock import is_locked, locked
from trainer_small.sweeps.sweep import Sweep, run_config, tokens_folder
from trainer_small.sweeps.sweep_status import SweepStatus, sweep_status

_FIXED_FLOPS_PER_TOKEN = 1e6
"""What a token costs in a small model beside its FLOPs, in FLOPs: for the estimate of the time left alone."""


@dataclass
class SweepProgress:
    """Where a sweep stands. Costs are in FLOP-like units that follow the time on a CPU."""

    runs: int
    finished: int
    cost: float
    cost_done: float
    seconds: float = 0.0
    """Since training began in this call."""
    seconds_left: float | None = None
    running: dict[str, RunEvent] = field(default_factory=dict)
    """The last word of every run in progress."""
    event: RunEvent | None = None
    """What has just happened."""


def run_sweep(
    sweep_file: str | Path,
    out: str | Path,
    *,
    engine: EngineChoice | None = None,
    workers: int | None = None,
    retry_diverged: int = 0,
    progress: Callable[[SweepProgress], None] | None = None,
    prepare: Callable[[int, int], None] | None = None,
) -> SweepStatus:
    """Train all runs of a sweep; the same call carries on after any interruption, also with another engine.

    Args:
        sweep_file: a ``Sweep`` as YAML.
        out: gets ``tokens/<vocab_size>/`` and one folder a run.
        engine: where the runs are trained; this machine when left out.
        workers: processes at a time on this machine; as many as cores (by threads) and memory allow when left out.
        retry_diverged: how often a diverged run is begun again.
        progress: called at every event of a run.
        prepare: called with a vocabulary size and the bytes of text tokenized so far.

    Returns:
        The state of every run; ``interrupted`` says that a signal ended the call early.

    Raises:
        UserError: the sweep, its corpus or a tokenizer is wrong, a run folder holds another config, or the engine
            lacks what it needs.
    """
    sweep, todo = lay_out(sweep_file, out, retry_diverged=retry_diverged, prepare=prepare)
    out, choice = Path(out), engine or EngineChoice(workers=workers)
    complete = True
    while todo and complete:
        on_gpu = any(run.device != "cpu" for run in todo)
        follow = _Follower(sweep, todo, progress)
        complete = choice.engine(out, len(todo), on_gpu=on_gpu).train(
            [Task.of(out / run.run_id, run) for run in todo], follow
        )
        todo = [run for run in todo if try_again_if_diverged(out / run.run_id, retry_diverged)]
    return sweep_status(out, [run.run_id for run in sweep.runs], interrupted=not complete)


def write_sbatch_script(
    sweep_file: str | Path,
    out: str | Path,
    engine: EngineChoice,
    *,
    retry_diverged: int = 0,
    prepare: Callable[[int, int], None] | None = None,
) -> Path | None:
    """Lay the sweep out as ``run_sweep`` does, and write a script for sbatch instead of training it.

    Returns:
        The script, or ``None`` when nothing is left to train.

    Raises:
        UserError: as ``run_sweep``.
    """
    _, todo = lay_out(sweep_file, out, retry_diverged=retry_diverged, prepare=prepare)
    if not todo:
        return None
    return write_script(
        Path(out),
        [Path(out) / run.run_id for run in todo],
        engine.resources,
        max_parallel=engine.max_parallel,
        options=engine.options,
    )


def lay_out(
    sweep_file: str | Path,
    out: str | Path,
    *,
    retry_diverged: int = 0,
    prepare: Callable[[int, int], None] | None = None,
) -> tuple[Sweep, list[RunSpec]]:
    """Write every run's folder and the token shards that runs share.

    Returns:
        The sweep, and its runs that are not done, longest first so that the workers end together.

    Raises:
        UserError: as ``run_sweep``.
    """
    sweep_file, out = Path(sweep_file), Path(out)
    sweep = Sweep.load(sweep_file)
    for run in sweep.runs:
        _lay_out_run(out / run.run_id, run_config(run))
        try_again_if_diverged(out / run.run_id, retry_diverged)
    todo = [run for run in sweep.runs if not is_final(out / run.run_id)]
    for run in todo:  # what failed is tried again, and its old reason must not be taken for a new one
        if not is_locked(out / run.run_id):
            result_path(out / run.run_id).unlink(missing_ok=True)
    _prepare_tokens(sweep, sweep_file.parent, out, todo, prepare)
    return sweep, sorted(todo, key=_cost, reverse=True)


def _lay_out_run(directory: Path, config: RunConfig) -> None:
    path = directory / "config.yaml"
    if not path.exists():
        config.save(path)
    elif (there := RunConfig.load(path)) != config and there.digest() != config.digest():
        raise UserError(
            f"{path} is another config than the sweep's run '{config.run_id}'; "
            "give the changed run a new run_id, or the sweep a new folder."
        )


def _prepare_tokens(
    sweep: Sweep, base: Path, out: Path, todo: list[RunSpec], prepare: Callable[[int, int], None] | None
) -> None:
    sizes = sorted({run.architecture.vocab_size for run in todo})
    if not sizes:
        return
    (out / "tokens").mkdir(parents=True, exist_ok=True)
    with locked(out / "tokens", wait=True):
        for size in sizes:

            def told(done: int, size: int = size) -> None:
                if prepare:
                    prepare(size, done)

            manifest = prepare_tokens(
                base / sweep.corpus, base / sweep.tokenizers[size], tokens_folder(out, size), on_progress=told
            )
            if manifest.vocab_size > size:
                raise UserError(
                    f"{sweep.tokenizers[size]} has {manifest.vocab_size} tokens, above the vocab_size {size} "
                    "it stands for in the sweep; give the right tokenizer."
                )


def _cost(run: RunSpec) -> float:
    return run.train_flops_spent + _FIXED_FLOPS_PER_TOKEN * run.tokens_spent


def _work_at(run: RunSpec, step: int) -> float:
    """What the run has cost up to a step; a branch's first steps were its trunk's."""
    return _cost(run) * (step - run.first_step) / (run.training.steps - run.first_step)


class _Follower:
    """Turns the engine's events into the sweep's progress."""

    def __init__(self, sweep: Sweep, todo: list[RunSpec], progress: Callable[[SweepProgress], None] | None) -> None:
        cost, left = sum(map(_cost, sweep.runs)), sum(map(_cost, todo))
        self._state = SweepProgress(len(sweep.runs), len(sweep.runs) - len(todo), cost, cost - left)
        self._progress = progress
        self._runs = {run.run_id: run for run in todo}
        self._done_before = self._start_cost = self._state.cost_done
        self._first_step: dict[str, int] = {}
        self._started = time.monotonic()

    def __call__(self, event: RunEvent) -> None:
        state, run = self._state, self._runs[event.run_id]
        if event.status == "running":
            # Steps of an earlier call cost nothing now.
            self._first_step.setdefault(event.run_id, event.step)
            state.running[event.run_id] = event
        else:
            state.running.pop(event.run_id, None)
            if event.status not in ("lost", "interrupted"):
                state.finished += 1
                self._done_before += _cost(run)
        state.event = event
        state.seconds = time.monotonic() - self._started
        within = sum(_work_at(self._runs[name], at.step) for name, at in state.running.items())
        state.cost_done = self._done_before + within
        if self._progress:
            state.seconds_left = self._left()
            self._progress(state)

    def _left(self) -> float | None:
        state = self._state
        earlier = sum(_work_at(self._runs[name], step) for name, step in self._first_step.items())
        worked = state.cost_done - self._start_cost - earlier
        return state.seconds * (state.cost - state.cost_done) / worked if worked > 0 else None
