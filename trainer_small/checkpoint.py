"""Checkpoints: written whole, named by step and content hash, the last two kept, damaged ones passed over."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from fits.errors import UserError

_KEPT = 2


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>-<hash>.pt`` (tensors and plain values only) and forget all but the newest two.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are left as they are.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".checkpoint.")
        try:
            with os.fdopen(descriptor, "w+b") as handle:
                torch.save(state, handle)
                handle.flush()
                os.fsync(handle.fileno())
                handle.seek(0)
                digest = hashlib.file_digest(handle, "sha256").hexdigest()[:16]
            path = directory / f"checkpoint-{step:09d}-{digest}.pt"
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
    for old in _newest_first(directory)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(directory: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint whose content is what its name says; ``None`` when there is none."""
    for path in _newest_first(directory):
        with path.open("rb") as handle:
            intact = hashlib.file_digest(handle, "sha256").hexdigest()[:16] == path.stem.rsplit("-", 1)[1]
        if intact:
            return torch.load(path, map_location=device, weights_only=True)
    return None


def remove_partial_checkpoints(directory: Path) -> None:
    """Remove what a killed process left half written."""
    for path in directory.glob(".checkpoint.*"):
        path.unlink(missing_ok=True)


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*-*.pt"), reverse=True)
