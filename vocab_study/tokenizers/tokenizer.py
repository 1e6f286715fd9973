"""One byte-level BPE tokenizer of the largest size; every smaller one is its exact prefix.

The layout: ``<|endoftext|>`` is id 0, the 256 bytes are ids 1 to 256, then one id for each merge in rank order.
Training is greedy, so the merges of a smaller tokenizer are the first merges of a larger one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fits.errors import UserError
from fits.files import write_text
from vocab_study.tokenizers.byte_characters import byte_characters
from vocab_study.tokenizers.merge_tree import MergeTree
from vocab_study.tokenizers.split_patterns import byte_level_splitter

END_OF_TEXT = "<|endoftext|>"
SMALLEST_SIZE = 257
"""The special token and the 256 bytes."""


def byte_ids() -> NDArray[np.int32]:
    """The id of each byte: they follow the order of the printable characters that stand for them."""
    shown = byte_characters()
    order = sorted(range(256), key=lambda byte: shown[byte])
    ids = np.empty(256, dtype=np.int32)
    ids[order] = np.arange(1, 257)
    return ids


def build_tokenizer(left: Sequence[int], right: Sequence[int], pretokenizer: str = "gpt2") -> Tokenizer:
    """The tokenizer of given merges, as ids of their parts in rank order, and of a split pattern's name."""
    tokens = [END_OF_TEXT, *sorted(byte_characters())]
    pairs = []
    for a, b in zip(left, right, strict=True):
        pairs.append((tokens[a], tokens[b]))
        tokens.append(tokens[a] + tokens[b])
    return _around(models.BPE({token: id for id, token in enumerate(tokens)}, pairs), pretokenizer)


def _around(model: models.BPE, pretokenizer: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = byte_level_splitter(pretokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    if model.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def tree_of_bytes(left: Sequence[int], right: Sequence[int]) -> MergeTree:
    """What ``take_apart`` says of ``build_tokenizer(left, right)``, without a look at its text."""
    contents = [b"", *sorted((bytes([byte]) for byte in range(256)), key=lambda byte: byte_characters()[byte[0]])]
    for a, b in zip(left, right, strict=True):
        contents.append(contents[a] + contents[b])
    partial = np.fromiter((not _is_text(content) for content in contents), dtype=bool, count=len(contents))
    return MergeTree(np.arange(len(contents)), list(left), list(right), partial)


def _is_text(content: bytes) -> bool:
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def train_tokenizer(
    documents: Iterable[str],
    max_size: int,
    *,
    pretokenizer: str = "gpt2",
    progress: Callable[[int], None] | None = None,
) -> Tokenizer:
    """Train a byte-level BPE tokenizer (Hugging Face ``tokenizers``).

    Deterministic: the same documents give the same merges. Pairs are merged down to a single occurrence; a text too
    small for ``max_size`` gives a smaller tokenizer (ask ``get_vocab_size``).

    Args:
        documents: the training texts; streamed.
        max_size: vocabulary size, the special token and the bytes in.
        pretokenizer: name of the pattern that splits text first.
        progress: called with the UTF-8 bytes read so far.

    Raises:
        UserError: ``max_size`` has no room for the bytes.
    """
    check_size(max_size)
    tokenizer = _around(models.BPE(), pretokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=max_size,
        min_frequency=0,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_watched(documents, progress), trainer)
    return tokenizer


def check_size(size: int) -> None:
    """Refuse a vocabulary without room for the special token and the bytes.

    Raises:
        UserError: ``size`` is below 257.
    """
    if size < SMALLEST_SIZE:
        raise UserError(f"vocabulary size {size} is below {SMALLEST_SIZE}, the special token and 256 bytes; raise it.")


def _watched(documents: Iterable[str], progress: Callable[[int], None] | None) -> Iterator[str]:
    done = 0
    for text in documents:
        yield text
        done += len(text.encode())
        if progress:
            progress(done)


def save(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write ``tokenizer.json``, whole or not at all; ``Tokenizer.from_file`` needs nothing else."""
    write_text(path, tokenizer.to_str(pretty=True))


def load(path: str | Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        UserError: the file is missing or is no tokenizer.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; check the path.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path} is no Hugging Face tokenizer.json ({error}); remake the file.") from None
