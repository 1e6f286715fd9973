"""One byte-level BPE tokenizer of the largest size; every smaller one is its exact prefix.

The layout: ``<|endoftext|>`` is id 0, the 256 bytes are ids 1 to 256, then one id for each merge in rank order.
Training is greedy, so the merges of a smaller tokenizer are the first merges of a larger one.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fits.errors import UserError
from fits.files import write_text

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


def byte_characters() -> list[str]:
    """The character that stands for each byte: itself where it is printable, else one from U+0100 up (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def build_tokenizer(left: Sequence[int], right: Sequence[int]) -> Tokenizer:
    """The tokenizer of given merges, as ids of their parts in rank order."""
    tokens = [END_OF_TEXT, *sorted(byte_characters())]
    pairs = []
    for a, b in zip(left, right, strict=True):
        pairs.append((tokens[a], tokens[b]))
        tokens.append(tokens[a] + tokens[b])
    return _around(models.BPE({token: id for id, token in enumerate(tokens)}, pairs))


def _around(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    if model.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def train_tokenizer(
    documents: Iterable[str], max_size: int, *, progress: Callable[[int], None] | None = None
) -> Tokenizer:
    """Train a byte-level BPE tokenizer with GPT-2's pre-tokens (Hugging Face ``tokenizers``).

    Deterministic: the same documents give the same merges. Pairs are merged down to a single occurrence; a text too
    small for ``max_size`` gives a smaller tokenizer (ask ``get_vocab_size``).

    Args:
        documents: the training texts; streamed.
        max_size: vocabulary size, the special token and the bytes in.
        progress: called with the UTF-8 bytes read so far.

    Raises:
        UserError: ``max_size`` has no room for the bytes.
    """
    check_size(max_size)
    tokenizer = _around(models.BPE())
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


def merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges in rank order, each part in the printable byte alphabet of GPT-2."""
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def prefix(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The tokenizer of a smaller vocabulary: its first ``size - 257`` merges, the same ids.

    Equal to a tokenizer trained at ``size`` on the same documents.

    Raises:
        UserError: ``size`` is below 257 or above the tokenizer's own.
    """
    check_size(size)
    largest = tokenizer.get_vocab_size()
    if size > largest:
        raise UserError(f"vocabulary size {size} is above {largest}, the largest this tokenizer holds; lower it.")
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] = {token: id for token, id in model["vocab"].items() if id < size}
    model["merges"] = model["merges"][: size - SMALLEST_SIZE]
    return Tokenizer.from_str(json.dumps(content))


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
