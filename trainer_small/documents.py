"""The corpus as a plain folder: ``train.jsonl`` and ``validation.jsonl``, one document a line, and a manifest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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


def read_documents(corpus: str | Path, split: Split) -> Iterator[Document]:
    """Stream the documents of one split, in file order.

    Raises:
        UserError: the folder is no corpus, or a line is not a document.
    """
    path = Path(corpus) / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"{corpus} has no {split}.jsonl; make a corpus with: scaling corpus SOURCE --out {corpus}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                yield Document(record["id"], record["source"], record["text"])
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(
                    f"{path} line {number}: not a document with id, source and text; remake the corpus."
                ) from None
