"""Names of checkpoint files: ``<kind>-<step>-<hash>.pt``, where the hash is of the content. No torch here."""

import hashlib
from pathlib import Path
from typing import IO, Literal

Kind = Literal["checkpoint", "kept"]
"""``checkpoint`` is for resuming and makes room for newer ones; ``kept`` stays, for branches to leave from."""
_DIGITS = 16


def content_digest(handle: IO[bytes]) -> str:
    """Hash of a file from where it stands."""
    return hashlib.file_digest(handle, "sha256").hexdigest()[:_DIGITS]  # type: ignore[arg-type]


class HashedWrites:
    """Stands for a file that is written from its start to its end, and knows the hash without reading it again."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle, self._hash = handle, hashlib.sha256()

    def write(self, data: memoryview | bytes) -> int:
        self._hash.update(data)
        return self._handle.write(data)

    def flush(self) -> None:
        self._handle.flush()

    @property
    def digest(self) -> str:
        """``content_digest`` of what was written."""
        return self._hash.hexdigest()[:_DIGITS]


def checkpoint_path(directory: Path, kind: Kind, step: int, digest: str) -> Path:
    return directory / f"{kind}-{step:09d}-{digest}.pt"


def step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


def is_intact(path: Path) -> bool:
    """Whether the content is what the name says."""
    with path.open("rb") as handle:
        return content_digest(handle) == path.stem.rsplit("-", 1)[1]


def checkpoints(directory: Path, kind: Kind) -> list[Path]:
    """Newest first."""
    return sorted(directory.glob(f"{kind}-*-*.pt"), reverse=True)


def kept_checkpoints(directory: Path, step: int) -> list[Path]:
    """The kept states of one step."""
    return [path for path in checkpoints(directory, "kept") if step_of(path) == step]
