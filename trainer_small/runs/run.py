"""One run is one folder: ``config.yaml`` in, ``metrics.jsonl``, checkpoints and ``result.json`` out.

``run_one`` is idempotent: a finished run returns at once, an interrupted or killed one carries on from its last
checkpoint and ends, on a CPU, with the same bits as an undisturbed one. One that does not fit into the memory goes on
with half the micro-batch, which changes the rounding but not the experiment; ``attempts.jsonl`` tells. On a GPU the
micro-batch is the largest that is predicted to fit, unless the run names one.
"""

import errno
import gc
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import torch

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.machine.ranks import first_of_ranks, join_ranks, several_ranks
from trainer_small.result import Result, is_final, read_result, write_failure
from trainer_small.runs.attempts import Attempt, add_attempt, fitted_to_memory, smaller_micro_batch
from trainer_small.runs.lock import Busy, locked
from trainer_small.runs.run_loop import RunLoop, RunProgress, choose_device
from trainer_small.runs.trunk import TrunkNotReady
from trainer_small.steps.memory_estimate import DoesNotFit, fit_micro_batch


class RunBusy(UserError):
    """Another process is training the run."""


def run_one(
    directory: str | Path,
    *,
    on_progress: Callable[[RunProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Result:
    """Train the run in ``directory`` to its end, from wherever it stands.

    Args:
        directory: holds ``config.yaml`` (a ``RunConfig``).
        on_progress: called about twice a second.
        stop: asked after every step; when it says true, the run writes a checkpoint and returns ``interrupted``.

    Returns:
        The result, also written to ``result.json`` unless the run was interrupted.

    Raises:
        UserError: the config, tokens or device are wrong, another process has the run, or the disk is full;
            apart from a busy run the reason is kept in ``result.json`` as ``failed``.
        TrunkNotReady: the run is a branch whose trunk is not that far yet; nothing is written.
    """
    directory = Path(directory)
    config = RunConfig.load(directory / "config.yaml")
    try:
        with locked(directory) if first_of_ranks() else nullcontext() as hold:
            result = read_result(directory)
            if result and is_final(directory):
                if result.config_sha256 != config.digest():
                    raise UserError(
                        f"{directory}/config.yaml differs from the config that made its result.json; "
                        "give the changed run a new folder."
                    )
                return result

            def stopping() -> bool:
                return (hold is not None and hold.lost) or (stop is not None and stop())

            return _train(directory, config, on_progress, stopping)
    except Busy:
        raise RunBusy(f"{directory}: another process is training this run; wait for it or stop it.") from None
    except OSError as error:  # not even the lock can be written
        raise _mend(directory, error) from None


def _train(
    directory: Path,
    config: RunConfig,
    on_progress: Callable[[RunProgress], None] | None,
    stop: Callable[[], bool],
) -> Result:
    while True:
        fitted = fitted_to_memory(directory, config)
        try:
            ranks = join_ranks()
            fitted = fit_micro_batch(fitted, choose_device(config, ranks.local_rank), ranks.size)
            return RunLoop(directory, fitted, on_progress, stop).train()
        except TrunkNotReady:
            raise
        except Exception as error:
            smaller = smaller_micro_batch(fitted.training) if _is_out_of_memory(error) else None
            if smaller is None:
                _fail(directory, config, error)
            if several_ranks():  # the others wait for this one in vain: torchrun ends them, and all begin again
                add_attempt(directory, Attempt(outcome="out of memory", micro_batch_tokens=smaller))
                raise
        # Here, where the error and the model it holds are gone.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        add_attempt(directory, Attempt(outcome="out of memory", micro_batch_tokens=smaller))


def _fail(directory: Path, config: RunConfig, error: Exception) -> NoReturn:
    with suppress(OSError):  # a full disk takes not even the reason
        record_failure(directory, config, error)
    raise (_user_error(directory, error) or error) from None


def record_failure(directory: Path, config: RunConfig, error: Exception) -> Result:
    """Keep in the run's folder why it failed."""
    return write_failure(directory, config, str(_user_error(directory, error) or f"{type(error).__name__}: {error}"))


def _user_error(directory: Path, error: Exception) -> UserError | None:
    """What the user can mend, in a sentence; None when the fault is ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, DoesNotFit):
        return UserError(f"{directory}: {error}; give it more, or make it smaller.")
    if _is_out_of_memory(error):
        return UserError(f"{directory}: out of memory with one sequence at a time; give the run more, or shrink it.")
    return _mend(directory, error) if isinstance(error, OSError) else None


def _mend(directory: Path, error: OSError) -> UserError:
    return UserError(f"{error.filename or directory}: {error.strerror}; mend it and run the same command again.")


def _is_out_of_memory(error: Exception) -> bool:
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    said = any(words in str(error) for words in ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"))
    return refused or said or isinstance(error, MemoryError | torch.OutOfMemoryError)
