"""One piece of a corpus tokenized into one shard: written whole or not at all, and found again."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from fits.files import write_bytes
from fits.schema import Schema
from trainer_small.data.documents import Document, Split, read_documents

_BATCH_CHARACTERS = 2**22
"""Text held at a time while tokenizing."""


class Shard(Schema):
    """Files ``<name>.tokens`` (ids) and ``<name>.documents.npy`` (a row each: end, bytes, key, group)."""

    name: str
    tokens: int
    bytes: int
    """UTF-8 bytes of the text."""
    documents: int
    groups: tuple[str, ...]
    """Names of the groups by their number in this shard."""
    sha256: str
    """Of the token file."""


class ShardWriter:
    """Writes the shards of one folder.

    Args:
        on_progress: called with the bytes of text of all shards so far.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_of_text: int, folder: Path, on_progress: Callable[[int], None] | None
    ) -> None:
        self._tokenizer, self.end_of_text, self.folder = tokenizer, end_of_text, folder
        self.vocab_size = tokenizer.get_vocab_size()
        self.dtype: Literal["uint16", "uint32"] = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self._on_progress = on_progress or (lambda done: None)
        self._done = 0

    def write(self, corpus: Path, split: Split, name: str, start: int, end: int) -> Shard:
        """The shard of bytes ``start .. end`` of the split's file; at once when it is there already."""
        record = self.folder / f"{name}.json"
        shard = Shard.load(record) if record.exists() else self._tokenize(corpus, split, name, start, end)
        if not record.exists():
            shard.save(record)  # last: it vouches for the files
        self._done += shard.bytes
        self._on_progress(self._done)
        return shard

    def _tokenize(self, corpus: Path, split: Split, name: str, start: int, end: int) -> Shard:
        digest = hashlib.sha256()
        rows: list[tuple[int, int, int, int]] = []
        groups: dict[str, int] = {}
        unigram = np.zeros(self.vocab_size, dtype=np.int64)
        tokens = size = 0
        temporary = self.folder / f".{name}.{os.getpid()}"
        with temporary.open("wb") as handle:
            for batch in _batches(read_documents(corpus, split, start, end)):
                encodings = self._tokenizer.encode_batch_fast([one.text for one in batch], add_special_tokens=False)
                ids = [np.array([*encoding.ids, self.end_of_text], dtype=self.dtype) for encoding in encodings]
                joined = np.concatenate(ids)
                unigram += np.bincount(joined, minlength=len(unigram))
                handle.write(joined.tobytes())
                digest.update(joined.tobytes())
                for document, own in zip(batch, ids, strict=True):
                    text = document.text.encode()
                    tokens, size = tokens + len(own), size + len(text)
                    key = int.from_bytes(hashlib.sha256(text).digest()[:7])
                    rows.append((tokens, len(text), key, groups.setdefault(document.source, len(groups))))
                self._on_progress(self._done + size)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, self.folder / f"{name}.tokens")
        save_array(self.folder / f"{name}.documents.npy", np.array(rows, dtype=np.int64).reshape(-1, 4))
        save_array(unigram_file(self.folder, name), unigram)
        return Shard(
            name=name,
            tokens=tokens,
            bytes=size,
            documents=len(rows),
            groups=tuple(groups),
            sha256=digest.hexdigest(),
        )


def save_array(path: Path, array: np.ndarray) -> None:
    """As ``.npy``, whole or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def unigram_file(folder: Path, name: str) -> Path:
    """How often each id occurs in the shard, until the folder is complete."""
    return folder / f"{name}.unigram.npy"


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
