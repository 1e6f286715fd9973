"""A token folder: a corpus tokenized once into shards that can be memory-mapped, and the manifest that says so."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from fits.errors import UserError
from fits.files import read_json, write_json
from fits.schema import Schema
from trainer_small.data.documents import Split, corpus_file, line_spans
from trainer_small.data.token_shards import Shard, ShardWriter, save_array, unigram_file

END_OF_TEXT = "<|endoftext|>"
_SPLITS: tuple[Split, ...] = ("train", "validation")
_SHARD_BYTES = 2**26
"""Of the corpus file behind one shard: what is done again, at most, after an interruption."""


class SplitTokens(Schema):
    tokens: int
    """With one end-of-text token after each document."""
    bytes: int
    """UTF-8 bytes of the text."""
    documents: int
    sha256: str
    """Of the shards' own hashes, in their order."""
    shards: tuple[Shard, ...]


class TokensManifest(Schema):
    """``manifest.json`` of a token folder: what it was made from and how much there is."""

    schema_version: Literal[3] = 3
    corpus_sha256: str
    tokenizer_sha256: str
    vocab_size: int
    end_of_text: int
    dtype: Literal["uint16", "uint32"]
    groups: tuple[str, ...]
    """What documents belong to: languages, say."""
    train: SplitTokens
    validation: SplitTokens


def prepare_tokens(
    corpus: str | Path,
    tokenizer_file: str | Path,
    out: str | Path,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> TokensManifest:
    """Tokenize a corpus into the folder ``out``, on all cores.

    Every piece of the corpus becomes a shard of its own, so memory stays bounded and a call that was stopped (or
    killed, or ran out of disk) carries on where it was. The folder appears whole or not at all; when it is there and
    was made from the same corpus and tokenizer, nothing is done.

    Args:
        corpus: folder with ``train.jsonl`` and ``validation.jsonl``.
        tokenizer_file: ``tokenizer.json`` with the token ``<|endoftext|>``.
        on_progress: called with the bytes of text done so far.

    Raises:
        UserError: a file is missing or malformed, a split is empty, the disk is full, or ``out`` holds other tokens.
    """
    corpus, out = Path(corpus), Path(out)
    tokenizer, end_of_text, tokenizer_sha256 = _load_tokenizer(Path(tokenizer_file))
    source = {"corpus_sha256": _corpus_sha256(corpus), "tokenizer_sha256": tokenizer_sha256}
    if out.exists():
        return _same(out, source, corpus, tokenizer_file)
    partial = out.parent / f".{out.name}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _begin(partial, source | {"shard_bytes": _SHARD_BYTES})
        writer = ShardWriter(tokenizer, end_of_text, partial, on_progress)
        manifest = _manifest(writer, source, {split: _write_split(writer, corpus, split) for split in _SPLITS})
        manifest.save(partial / "manifest.json")
        partial.rename(out)
    except OSError as error:
        if out.exists():  # another process did the same meanwhile: every file is put in place whole, so no harm is done
            shutil.rmtree(partial, ignore_errors=True)
            return _same(out, source, corpus, tokenizer_file)
        raise UserError(
            f"{out} cannot be written: {error.strerror}; mend it and run the same command again, "
            f"what was done is kept in {partial}."
        ) from None
    except UserError:
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


def _same(out: Path, source: dict[str, str], corpus: Path, tokenizer_file: str | Path) -> TokensManifest:
    manifest = read_manifest(out)
    if any(getattr(manifest, key) != value for key, value in source.items()):
        raise UserError(
            f"{out} holds tokens of another corpus or tokenizer than {corpus} and {tokenizer_file}; "
            "remove it or choose another folder."
        )
    return manifest


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
        with corpus_file(corpus, split).open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def _begin(partial: Path, source: dict[str, str | int]) -> None:
    """Forget what is left of another corpus, tokenizer or size of shards."""
    path = partial / "source.json"
    if not path.exists() or read_json(path) != source:
        for old in partial.iterdir():
            old.unlink()
        write_json(path, source)


def _write_split(writer: ShardWriter, corpus: Path, split: Split) -> SplitTokens:
    spans = line_spans(corpus, split, _SHARD_BYTES)
    shards = tuple(
        writer.write(corpus, split, f"{split}-{index:05d}", start, end) for index, (start, end) in enumerate(spans)
    )
    documents = sum(shard.documents for shard in shards)
    if not documents:
        raise UserError(f"{corpus}/{split}.jsonl has no documents; make the corpus from more text.")
    return SplitTokens(
        tokens=sum(shard.tokens for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        documents=documents,
        sha256=hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest(),
        shards=shards,
    )


def _manifest(writer: ShardWriter, source: dict[str, str], splits: dict[Split, SplitTokens]) -> TokensManifest:
    """Sum up, and put the shards' counts of ids together."""
    unigram = np.zeros(writer.vocab_size, dtype=np.int64)
    for shard in splits["train"].shards:
        unigram += np.load(unigram_file(writer.folder, shard.name), allow_pickle=False)
    save_array(writer.folder / "unigram.npy", unigram)
    for shard in (*splits["train"].shards, *splits["validation"].shards):
        unigram_file(writer.folder, shard.name).unlink()
        (writer.folder / f"{shard.name}.json").unlink()
    (writer.folder / "source.json").unlink()
    groups = (group for split in _SPLITS for shard in splits[split].shards for group in shard.groups)
    return TokensManifest(
        corpus_sha256=source["corpus_sha256"],
        tokenizer_sha256=source["tokenizer_sha256"],
        vocab_size=writer.vocab_size,
        end_of_text=writer.end_of_text,
        dtype=writer.dtype,
        groups=tuple(dict.fromkeys(groups)),
        train=splits["train"],
        validation=splits["validation"],
    )
