"""The corpus as a plain folder: ``train.jsonl`` and ``validation.jsonl``, one document a line, and a manifest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from fits.errors import UserError

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Document:
    id: str
    source: str
    """The group the document belongs to: a language, a folder or a file."""
    text: str


def corpus_file(corpus: str | Path, split: Split) -> Path:
    """
    Raises:
        UserError: the folder is no corpus.
    """
    path = Path(corpus) / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"{corpus} has no {split}.jsonl; make a corpus with: scaling corpus SOURCE --out {corpus}")
    return path


def line_spans(corpus: str | Path, split: Split, size: int) -> list[tuple[int, int]]:
    """The split's file in pieces of whole lines, about ``size`` bytes each: where each starts and ends."""
    path = corpus_file(corpus, split)
    total = path.stat().st_size
    bounds = [0]
    with path.open("rb") as handle:
        while bounds[-1] < total:
            handle.seek(min(bounds[-1] + size, total) - 1)
            handle.readline()
            bounds.append(handle.tell())
    return list(pairwise(bounds))


def read_documents(corpus: str | Path, split: Split, start: int = 0, end: int | None = None) -> Iterator[Document]:
    """Stream the documents of one split, in file order; of a part of its file, from one line's start to another's.

    Raises:
        UserError: the folder is no corpus, or a line is not a document.
    """
    path = corpus_file(corpus, split)
    with path.open("rb") as lines:
        lines.seek(start)
        at = start
        while (end is None or at < end) and (line := lines.readline()):
            try:
                record = json.loads(line)
                document = Document(record["id"], record["source"], record["text"])
                if not isinstance(document.text, str):
                    raise TypeError
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                raise UserError(
                    f"{path} line {_line_number(path, at)}: not a document with id, source and text; remake the corpus."
                ) from None
            yield document
            at += len(line)


def _line_number(path: Path, at: int) -> int:
    with path.open("rb") as handle:
        number = 1
        while handle.tell() < at:
            handle.readline()
            number += 1
    return number
