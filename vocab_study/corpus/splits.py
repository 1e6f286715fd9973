"""The two files of a corpus while they are written: split by hash, duplicates dropped, whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer_small.data.documents import Document, Split


def split_point(key: str) -> float:
    """Where a document lies in [0, 1): blake2b of its key, 8 bytes, big-endian, over 2**64."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


class SplitFile:
    """One split in a temporary file beside its final place, with its counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self.temporary, self.handle = Path(name), os.fdopen(descriptor, "w+b")
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.groups: dict[str, list[int]] = {}
        """Documents, UTF-8 bytes and characters of each group."""

    def add(self, document: Document) -> None:
        record = {"id": document.id, "source": document.source, "text": document.text}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        self.handle.write(line)
        self.sha256.update(line)
        self.size += len(line)
        counts = self.groups.setdefault(document.source, [0, 0, 0])
        for index, value in enumerate((1, len(document.text.encode()), len(document.text))):
            counts[index] += value

    def documents(self) -> Iterator[Document]:
        self.handle.seek(0)
        for line in self.handle:
            record = json.loads(line)
            yield Document(record["id"], record["source"], record["text"])

    def close(self) -> None:
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.handle.close()


class SplitWriter:
    """Writes ``train.jsonl`` and ``validation.jsonl`` of a corpus folder.

    Nothing appears under those names before ``publish``; an exception inside the ``with`` leaves no trace.
    """

    def __init__(self, folder: Path, validation_fraction: float) -> None:
        self.folder, self.fraction = folder, validation_fraction
        self.made_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self.files: dict[Split, SplitFile] = {
            "train": SplitFile(folder / "train.jsonl"),
            "validation": SplitFile(folder / "validation.jsonl"),
        }
        self.seen: set[bytes] = set()
        self.duplicates = 0
        self.nearest: dict[Split, tuple[float, bytes]] = {}
        """The document of each split that lies nearest to the other: distance and text digest."""

    @property
    def documents(self) -> int:
        return len(self.seen)

    @property
    def bytes(self) -> int:
        return sum(counts[1] for file in self.files.values() for counts in file.groups.values())

    def add(self, document: Document, split_key: str) -> None:
        """Write a document to its split, unless an earlier one has the same text."""
        digest = _digest(document.text)
        if digest in self.seen:
            self.duplicates += 1
            return
        self.seen.add(digest)
        distance = split_point(split_key) - self.fraction
        split: Split = "train" if distance >= 0 else "validation"
        self.files[split].add(document)
        self.nearest[split] = min(self.nearest.get(split, (2.0, b"")), (abs(distance), digest))

    def fill_empty_split(self) -> None:
        """Move the document nearest to a split that stayed empty; needs two documents."""
        if self.files["validation"].size == 0:
            self._move_nearest("train", "validation")
        elif self.files["train"].size == 0:
            self._move_nearest("validation", "train")

    def _move_nearest(self, full: Split, empty: Split) -> None:
        _, moved = self.nearest[full]
        old, rest = self.files[full], SplitFile(self.files[full].path)
        for document in old.documents():
            (self.files[empty] if _digest(document.text) == moved else rest).add(document)
        self.files[full] = rest
        _discard(old)

    def publish(self) -> None:
        """Put both files in place; an old manifest goes first, so that none describes a mixed folder."""
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for file in self.files.values():
            file.close()
            file.temporary.chmod(0o644)
            file.temporary.replace(file.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            _discard(file)
        if kind and self.made_folder:
            self.folder.rmdir()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _discard(file: SplitFile) -> None:
    file.handle.close()
    file.temporary.unlink(missing_ok=True)
