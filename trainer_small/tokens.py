"""Token shards: a corpus tokenized once into files that can be memory-mapped."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from fits.errors import UserError
from fits.schema import Schema
from trainer_small.documents import Document, Split, read_documents

END_OF_TEXT = "<|endoftext|>"
_SPLITS: tuple[Split, ...] = ("train", "validation")
_BATCH_CHARACTERS = 2**22
"""Text held at a time while tokenizing."""


class SplitCounts(Schema):
    tokens: int
    """With one end-of-text token after each document."""
    bytes: int
    """UTF-8 bytes of the text."""
    documents: int
    sha256: str
    """Of the token file."""


class TokensManifest(Schema):
    """``manifest.json`` of a token folder: what it was made from and how much there is."""

    schema_version: Literal[2] = 2
    corpus_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    end_of_text: int
    dtype: Literal["uint16", "uint32"]
    groups: tuple[str, ...]
    """What documents belong to: languages, say."""
    train: SplitCounts
    validation: SplitCounts


def prepare_tokens(
    corpus: str | Path,
    tokenizer_file: str | Path,
    out: str | Path,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> TokensManifest:
    """Tokenize a corpus into ``out``: ``<split>.tokens``, ``<split>.documents.npy`` and ``manifest.json``.

    ``unigram.npy`` has how often each id occurs in the training text, for the unigram-normalised loss.
    Memory stays bounded by a batch of documents. The folder appears whole or not at all; when it is there and
    was made from the same corpus and tokenizer, nothing is done.

    Args:
        corpus: folder with ``train.jsonl`` and ``validation.jsonl``.
        tokenizer_file: ``tokenizer.json`` with the token ``<|endoftext|>``.
        on_progress: called with the bytes of text done so far.

    Raises:
        UserError: a file is missing or malformed, a split is empty, or ``out`` holds other tokens.
    """
    out = Path(out)
    tokenizer, end_of_text, tokenizer_sha256 = _load_tokenizer(Path(tokenizer_file))
    corpus_sha256 = _corpus_sha256(Path(corpus))
    if out.exists():
        manifest = read_manifest(out)
        if (manifest.corpus_sha256, manifest.tokenizer_sha256) != (corpus_sha256, tokenizer_sha256):
            raise UserError(
                f"{out} holds tokens of another corpus or tokenizer than {corpus} and {tokenizer_file}; "
                "remove it or choose another folder."
            )
        return manifest
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        vocab_size = tokenizer.get_vocab_size()
        dtype: Literal["uint16", "uint32"] = "uint16" if vocab_size <= 2**16 else "uint32"
        done = 0
        counts: dict[Split, SplitCounts] = {}
        groups: dict[str, int] = {}
        for split in _SPLITS:
            writer = _SplitWriter(tokenizer, end_of_text, dtype, partial, groups)
            counts[split] = writer.write(Path(corpus), split, done, on_progress)
            done += counts[split].bytes
        manifest = TokensManifest(
            corpus_sha256=corpus_sha256,
            tokenizer_sha256=tokenizer_sha256,
            vocab_size=vocab_size,
            end_of_text=end_of_text,
            dtype=dtype,
            groups=tuple(groups),
            train=counts["train"],
            validation=counts["validation"],
        )
        manifest.save(partial / "manifest.json")
        partial.chmod(0o755)
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{out} cannot be written: {error.strerror}.") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def read_manifest(folder: str | Path) -> TokensManifest:
    """
    Raises:
        UserError: the folder is missing or holds no tokens.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no tokens (no manifest.json); remove it and prepare the tokens again.")
    return TokensManifest.load(path)


def _load_tokenizer(path: Path) -> tuple[Tokenizer, int, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the tokenizer's path.") from None
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception:  # the library raises bare Exception
        raise UserError(f"{path} is not a Hugging Face tokenizer.json; train or download it again.") from None
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None:
        raise UserError(f"{path} has no token {END_OF_TEXT}; add it as a special token.")
    tokenizer.encode_special_tokens = True  # a document that spells a special token out is only text
    return tokenizer, end_of_text, hashlib.sha256(content).hexdigest()


def _corpus_sha256(corpus: Path) -> str:
    digest = hashlib.sha256()
    for split in _SPLITS:
        next(read_documents(corpus, split), None)  # names a missing or malformed file
        with (corpus / f"{split}.jsonl").open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class _SplitWriter:
    tokenizer: Tokenizer
    end_of_text: int
    dtype: str
    folder: Path
    groups: dict[str, int]
    """Filled with the groups that are met, numbered from 0."""

    def write(self, corpus: Path, split: Split, done: int, on_progress: Callable[[int], None] | None) -> SplitCounts:
        digest = hashlib.sha256()
        rows: list[tuple[int, int, int, int]] = []
        unigram = np.zeros(self.tokenizer.get_vocab_size(), dtype=np.int64)
        end = size = 0
        with (self.folder / f"{split}.tokens").open("wb") as handle:
            for batch in _batches(read_documents(corpus, split)):
                texts = [document.text for document in batch]
                encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                ids = [np.array([*encoding.ids, self.end_of_text], dtype=self.dtype) for encoding in encodings]
                joined = np.concatenate(ids)
                unigram += np.bincount(joined, minlength=len(unigram))
                handle.write(joined.tobytes())
                digest.update(joined.tobytes())
                for document, own in zip(batch, ids, strict=True):
                    text = document.text.encode()
                    end += len(own)
                    size += len(text)
                    key = int.from_bytes(hashlib.sha256(text).digest()[:7])
                    rows.append((end, len(text), key, self.groups.setdefault(document.source, len(self.groups))))
                if on_progress:
                    on_progress(done + size)
        if not rows:
            raise UserError(f"{corpus}/{split}.jsonl has no documents; make the corpus from more text.")
        np.save(self.folder / f"{split}.documents.npy", np.array(rows, dtype=np.int64), allow_pickle=False)
        if split == "train":
            np.save(self.folder / "unigram.npy", unigram, allow_pickle=False)
        return SplitCounts(tokens=end, bytes=size, documents=len(rows), sha256=digest.hexdigest())


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
