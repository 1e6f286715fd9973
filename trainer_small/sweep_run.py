"""Carry out a sweep: lay out its run folders, prepare tokens once, train what is not done, report on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fits.errors import UserError
from trainer_small.config import RunConfig, RunSpec
from trainer_small.local_engine import LocalEngine, RunEvent
from trainer_small.lock import locked
from trainer_small.machine import default_workers
from trainer_small.result import is_final
from trainer_small.sweep import Sweep, run_config, tokens_folder
from trainer_small.sweep_status import SweepStatus, sweep_status
from trainer_small.tokens import prepare_tokens

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
    workers: int | None = None,
    threads: int = 1,
    progress: Callable[[SweepProgress], None] | None = None,
    prepare: Callable[[int, int], None] | None = None,
) -> SweepStatus:
    """Train all runs of a sweep on this machine; the same call carries on after any interruption.

    Args:
        sweep_file: a ``Sweep`` as YAML.
        out: gets ``tokens/<vocab_size>/`` and one folder a run.
        workers: processes at a time; as many as cores (by ``threads``) and memory allow when left out.
        threads: threads of each; results depend on it in the last digits.
        progress: called at every event of a run.
        prepare: called with a vocabulary size and the bytes of text tokenized so far.

    Returns:
        The state of every run; ``interrupted`` says that a signal ended the call early.

    Raises:
        UserError: the sweep, its corpus or a tokenizer is wrong, or a run folder holds another config.
    """
    sweep_file, out = Path(sweep_file), Path(out)
    sweep = Sweep.load(sweep_file)
    if threads < 1 or (workers is not None and workers < 1):
        raise UserError(f"workers is {workers} and threads is {threads}; both must be at least 1.")
    workers = workers or default_workers(threads)
    for run in sweep.runs:
        _lay_out(out / run.run_id, run_config(run))
    todo = [run for run in sweep.runs if not is_final(out / run.run_id)]
    _prepare_tokens(sweep, sweep_file.parent, out, todo, prepare)
    todo.sort(key=_cost, reverse=True)  # longest first, so that the workers end together
    state = SweepProgress(
        runs=len(sweep.runs),
        finished=len(sweep.runs) - len(todo),
        cost=sum(map(_cost, sweep.runs)),
        cost_done=sum(map(_cost, sweep.runs)) - sum(map(_cost, todo)),
    )
    follow = _Follower(state, todo, progress)
    complete = not todo or LocalEngine(min(workers, len(todo)), threads, out / "workers.log", follow).train(
        [out / run.run_id for run in todo]
    )
    return sweep_status(out, [run.run_id for run in sweep.runs], interrupted=not complete)


def _lay_out(directory: Path, config: RunConfig) -> None:
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
    return run.train_flops + _FIXED_FLOPS_PER_TOKEN * run.training.tokens_trained


class _Follower:
    """Turns the engine's events into the sweep's progress."""

    def __init__(
        self, state: SweepProgress, todo: list[RunSpec], progress: Callable[[SweepProgress], None] | None
    ) -> None:
        self._state, self._progress = state, progress
        self._runs = {run.run_id: run for run in todo}
        self._done_before = self._start_cost = state.cost_done
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
        within = sum(
            _cost(self._runs[name]) * at.step / self._runs[name].training.steps for name, at in state.running.items()
        )
        state.cost_done = self._done_before + within
        if self._progress:
            state.seconds_left = self._left()
            self._progress(state)

    def _left(self) -> float | None:
        state = self._state
        earlier = sum(
            _cost(self._runs[name]) * step / self._runs[name].training.steps for name, step in self._first_step.items()
        )
        worked = state.cost_done - self._start_cost - earlier
        return state.seconds * (state.cost - state.cost_done) / worked if worked > 0 else None
