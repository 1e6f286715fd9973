"""Distinct pre-tokens and how often each occurs, by the fastest counter at hand.

``gigatoken`` counts GPT-2's pre-tokens some thirty times faster than the reference; the ``regex`` package does any
pattern. Either is tested against the reference on every character of the text before it is trusted, since two
libraries may know different versions of Unicode.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from vocab_study.tokenizers.byte_characters import byte_characters
from vocab_study.tokenizers.split_patterns import byte_level_splitter, split_pattern

Ints = NDArray[np.int64]
Key = tuple[str, str]
"""A split and a group."""

BATCH_CHARACTERS = 1 << 24
SEPARATOR = b"\xff"  # no byte of any UTF-8 text


@dataclass(frozen=True)
class PretokenCounts:
    """The distinct pre-tokens of some texts, and their counts in each of them."""

    pretokens: list[bytes]
    counts: dict[Key, Ints]
    """For each split and group, shape [pre-tokens]."""
    counter: str
    """The package that counted them."""


CountTexts = Callable[[list[str]], Iterable[tuple[bytes, int]]]
"""Counts the pre-tokens of some texts, each text by itself."""


def fastest_counter(pretokenizer: str) -> tuple[str, CountTexts]:
    """The counter to use for a split pattern, and the name of the package it is of."""
    if pretokenizer == "gpt2":
        try:
            from gigatoken.gigatoken_rs import pretokenized_counts  # type: ignore[import-not-found]
        except ImportError:
            pass
        else:
            return "gigatoken", lambda texts: _quietly(pretokenized_counts, texts)
    pattern = regex.compile(split_pattern(pretokenizer))
    return "regex", lambda texts: _by_pattern(pattern, texts)


def _quietly(counter: Callable[[bytes, bytes], list[tuple[bytes, int]]], texts: list[str]) -> list[tuple[bytes, int]]:
    with _quiet():
        return counter(SEPARATOR.join(text.encode() for text in texts), SEPARATOR)


def _by_pattern(pattern: "regex.Pattern[str]", texts: list[str]) -> Iterator[tuple[bytes, int]]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pattern.findall(text))
    return ((word.encode(), count) for word, count in counts.items())


def count_pretokens(texts: Iterable[tuple[Key, str]], pretokenizer: str = "gpt2") -> PretokenCounts | None:
    """Count the pre-tokens of each split and group; ``None`` where only the reference can be trusted.

    Texts are streamed in batches of 16 million characters for each split and group.

    Raises:
        UserError: there is no such pattern.
    """
    package, counter = fastest_counter(pretokenizer)
    index: dict[bytes, int] = {}
    counts: dict[Key, Ints] = {}
    for key, batch in _batches(texts):
        found = list(counter(batch))
        rows = np.fromiter((index.setdefault(word, len(index)) for word, _ in found), np.int64, len(found))
        counts[key] = _grown(counts.get(key), len(index))
        counts[key][rows] += np.fromiter((count for _, count in found), np.int64, len(found))
    pretokens = list(index)
    if not _agree(counter, pretokenizer, set(b"".join(pretokens).decode(errors="ignore"))):
        return None
    return PretokenCounts(pretokens, {key: _grown(count, len(index)) for key, count in counts.items()}, package)


def _batches(texts: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, list[str]]]:
    waiting: dict[Key, list[str]] = {}
    sizes: Counter[Key] = Counter()
    for key, text in texts:
        waiting.setdefault(key, []).append(text)
        sizes[key] += len(text)
        if sizes[key] >= BATCH_CHARACTERS:
            yield key, waiting.pop(key)
            del sizes[key]
    yield from waiting.items()


def _grown(counts: Ints | None, size: int) -> Ints:
    wider = np.zeros(size, dtype=np.int64)
    if counts is not None:
        wider[: len(counts)] = counts
    return wider


def _agree(counter: CountTexts, pretokenizer: str, characters: set[str]) -> bool:
    """Whether both split alike around each of these characters: among letters, digits, signs and spaces."""
    patterns = (
        "a{0}b",
        "1{0}2",
        " {0}{0}",
        "!{0}?",
        "x  {0} \n{0}'s{0}'ll",
        "{0}\n\n {0}",
        "a'{0} A{0}a{0}A",
        "-{0}/\n/",
    )
    texts = [pattern.format(character) for character in sorted(characters) for pattern in patterns]
    reference = byte_level_splitter(pretokenizer)
    expected = Counter(word for text in texts for word, _ in reference.pre_tokenize_str(text))
    shown = byte_characters()
    return {"".join(shown[byte] for byte in word): count for word, count in counter(texts)} == expected


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the library writes to standard error, past Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
