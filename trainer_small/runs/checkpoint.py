"""Checkpoints: written whole, named by step and content hash, the last two (and what is kept) stay, damaged ones
are passed over."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from fits.errors import UserError
from trainer_small.machine.machine import available_memory_bytes
from trainer_small.machine.ranks import several_ranks
from trainer_small.runs.checkpoint_files import (
    HashedWrites,
    Kind,
    checkpoint_path,
    checkpoints,
    is_intact,
    kept_checkpoints,
    step_of,
)

_LAST = 2
Write = Callable[[Path, int, dict[str, Any]], Path]
"""``save_checkpoint`` or ``keep_checkpoint``."""


class CheckpointWriter:
    """Writes the states of one run, one at a time.

    Args:
        beside: copy a state to host memory, which alone holds the training up, and have a thread write it. For a
            training on a card: on a CPU the copy would double what weights and moments take. Where the host has no
            room for it, states are written like those of a CPU, before the training goes on.
    """

    def __init__(self, directory: Path, *, beside: bool) -> None:
        self._directory, self._beside, self._asked = directory, beside, False
        self._writing: Future[Path] | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread is still writing."""
        return self._writing is not None and not self._writing.done()

    def write(self, how: Write, step: int, state: dict[str, Any]) -> None:
        """Write ``state`` after the one before; it may be changed once this returns.

        Raises:
            UserError: this or the state before cannot be written.
        """
        self.wait()
        if self._beside and not self._asked:  # once: pinned memory stays with the process, for the next copy
            need = 2 * sum(tensor.nbytes for tensor in _changing(state))
            self._beside, self._asked = need < available_memory_bytes(), True
        if not self._beside:
            how(self._directory, step, state)
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = thread.submit(how, self._directory, step, _on_host(state))
        thread.shutdown(wait=False)  # which ends it when this is written

    def check(self) -> None:
        """
        Raises:
            UserError: what a thread has been writing could not be written.
        """
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until all is written; raises as ``check``."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and say nothing: the run ends for another reason."""
        if self._writing is not None:
            wait([self._writing])


def _changing(state: dict[str, Any]) -> list[torch.Tensor]:
    """The training's own tensors. Where it is on a card, what is on the host was put together for this state alone."""
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    on_card = any(tensor.is_cuda for tensor in tensors)
    return [tensor for tensor in tensors if tensor.is_cuda or not on_card]


def _on_host(state: dict[str, Any]) -> dict[str, Any]:
    """The same with copies of what the training changes; what stands at several places is copied once."""
    changing = {id(tensor) for tensor in _changing(state)}
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in changing:
            return tensor
        key = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if key not in copies:
            # From a card into pinned memory, and not waited for one by one.
            copies[key] = tensor.clone() if tensor.is_cpu else tensor.to("cpu", non_blocking=True)
        return copies[key]

    out = tree_map_only(torch.Tensor, copied, state)
    for device in {tensor.device for tensor in _changing(state) if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return out


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>-<hash>.pt`` (tensors and plain values only) and forget all but the newest two.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are left as they are.
    """
    path = _write(directory, "checkpoint", step, state)
    for old in checkpoints(directory, "checkpoint")[_LAST:]:
        old.unlink(missing_ok=True)
    return path


def keep_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``kept-<step>-<hash>.pt``, which is never removed; one that is there and intact is left as it is.

    Raises:
        UserError: the disk is full or not writable.
    """
    for path in kept_checkpoints(directory, step):
        if is_intact(path):
            return path
    return _write(directory, "kept", step, state)


def load_checkpoint(directory: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint whose content is what its name says; ``None`` when there is none."""
    found = checkpoints(directory, "checkpoint") + checkpoints(directory, "kept")
    for path in sorted(found, key=step_of, reverse=True):
        if is_intact(path):
            return read_checkpoint(path, device)
    return None


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state, for a training on ``device``: of one on a CPU in memory, else still in the file until it is taken."""
    on_cpu = device.type == "cpu" and not several_ranks()
    return torch.load(path, map_location="cpu", weights_only=True, mmap=not on_cpu)


def remove_partial_checkpoints(directory: Path) -> None:
    """Remove what a killed process left half written."""
    for path in directory.glob(".checkpoint.*"):
        path.unlink(missing_ok=True)


def _write(directory: Path, kind: Kind, step: int, state: dict[str, Any]) -> Path:
    try:
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".checkpoint.")
        try:
            with os.fdopen(descriptor, "wb") as handle:
                hashed = HashedWrites(handle)
                torch.save(state, hashed)  # type: ignore[arg-type]
                handle.flush()
                os.fsync(handle.fileno())
            path = checkpoint_path(directory, kind, step, hashed.digest)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(
            f"{directory}: the checkpoint of step {step} cannot be written ({reason}); "
            "free some space and run the same command again."
        ) from None
    return path
