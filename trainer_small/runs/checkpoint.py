"""Checkpoints: written whole, named by step and content hash, the last two (and what is kept) stay, damaged ones
are passed over."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from fits.errors import UserError
from trainer_small.runs.checkpoint_files import (
    Kind,
    checkpoint_path,
    checkpoints,
    content_digest,
    is_intact,
    kept_checkpoints,
    step_of,
)

_LAST = 2


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
    return torch.load(path, map_location=device, weights_only=True)


def remove_partial_checkpoints(directory: Path) -> None:
    """Remove what a killed process left half written."""
    for path in directory.glob(".checkpoint.*"):
        path.unlink(missing_ok=True)


def _write(directory: Path, kind: Kind, step: int, state: dict[str, Any]) -> Path:
    try:
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".checkpoint.")
        try:
            with os.fdopen(descriptor, "w+b") as handle:
                torch.save(state, handle)
                handle.flush()
                os.fsync(handle.fileno())
                handle.seek(0)
                digest = content_digest(handle)
            path = checkpoint_path(directory, kind, step, digest)
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
