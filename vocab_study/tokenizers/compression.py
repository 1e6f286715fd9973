"""Exact token counts and unigram statistics at every vocabulary size, from one encoding at the largest.

BPE applies merges inside a pre-token in rank order, and a merge that uses a token ranks after the merge that made
it. The encoding at a smaller vocabulary is therefore the same process stopped earlier, and the counts of the largest
vocabulary give those of every smaller one: undo the last merge by giving its count to its two parts, and go on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from tokenizers import Tokenizer

from vocab_study.tokenizers.merge_tree import MergeTree

BATCH_CHARACTERS = 1_000_000
RENYI_ORDER = 2.5
RARE_BELOW = 100

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Texts at every vocabulary size; row ``i`` of an array belongs to the smallest size + ``i``.

    Arrays are [sizes], or [sizes, texts] when they are of several texts.

    End-of-text tokens are no part of it: all counts are of the text itself.
    """

    tokens: Ints
    """Tokens of the text."""
    entropy: Floats
    """Of the unigram distribution, nats per token."""
    renyi_efficiency: Floats
    """Rényi entropy of order 2.5 over ln(vocabulary size) (arXiv 2306.16842)."""
    rare_tokens: Ints
    """Tokens of the vocabulary that occur fewer than 100 times in the text."""
    partial_tokens: Ints
    """Tokens of the text that are a piece of a character (its bytes fell back to smaller tokens)."""


def count_tokens(tokenizer: Tokenizer, texts: Iterable[tuple[str, str]]) -> dict[str, Ints]:
    """How often each id occurs in each group, arrays of shape [largest id + 1].

    A special token spelt out in a text is encoded as the text it is.

    Args:
        tokenizer: of the largest size.
        texts: pairs of a group's name and a text; streamed in batches of about a megabyte.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.encode_special_tokens = True
    size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
    counts: dict[str, Ints] = {}
    for batch in _batches(texts):
        encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
        ids: dict[str, list[int]] = {}
        for (group, _), encoding in zip(batch, encodings, strict=True):
            ids.setdefault(group, []).extend(encoding.ids)
        for group, occurrences in ids.items():
            histogram = np.bincount(np.asarray(occurrences, dtype=np.int64), minlength=size)
            counts[group] = counts[group] + histogram if group in counts else histogram
    return counts


def _batches(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    characters = 0
    for group, text in texts:
        batch.append((group, text))
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class Unmerging:
    """The counts met while merges are undone, one row a merge in rank order: [merges] or [merges, texts]."""

    counts: Ints
    """Histogram at the largest vocabulary."""
    undone: Ints
    """Count of the merged token when its merge is undone."""
    left_before: Ints
    """Count of its left part just before it receives the token's count."""
    right_before: Ints
    """The same of its right part, after the left one has received its own (they may be one token)."""

    @property
    def tokens(self) -> Ints:
        """Tokens at each size: undoing a merge adds one for each occurrence."""
        return self.at_every_size(self.counts.sum(axis=0), self.undone)

    def sum_over_vocabulary(self, term: Any) -> NDArray[Any]:
        """Sum of ``term(count)`` over the vocabulary, at every size; ``term`` maps an array to an array."""
        start = term(self.counts).sum(axis=0)
        step = -term(self.undone)
        for before in (self.left_before, self.right_before):
            step = step + term(before + self.undone) - term(before)
        return self.at_every_size(start, step)

    @staticmethod
    def at_every_size(largest: Any, steps: NDArray[Any]) -> NDArray[Any]:
        """From the value at the largest size and the change by each undone merge, the values from smallest up."""
        down = np.concatenate([np.asarray(largest, dtype=steps.dtype)[None], steps[::-1]])
        return np.cumsum(down, axis=0)[::-1]


def unmerge(counts: Ints, left: list[int], right: list[int]) -> Unmerging:
    """Undo all merges, last first.

    Args:
        counts: occurrences at the largest vocabulary of the tokens as a ``MergeTree`` orders them, those of no merge
            first; [vocabulary size], or [vocabulary size, texts].
        left: place of the left part of each merge in rank order.
        right: place of the right part.
    """
    current, merged = counts.copy(), counts[len(counts) - len(left) :]
    undone, left_before, right_before = np.empty_like(merged), np.empty_like(merged), np.empty_like(merged)
    smallest = len(counts) - len(left)
    for rank in range(len(left) - 1, -1, -1):
        count, a, b = current[smallest + rank], left[rank], right[rank]  # a and b may be one token
        undone[rank] = count
        left_before[rank] = current[a]
        current[a] += count
        right_before[rank] = current[b]
        current[b] += count
    return Unmerging(counts, undone, left_before, right_before)


def curve(counts: Ints, tree: MergeTree) -> Curve:
    """All statistics at every size.

    Args:
        counts: occurrences of each token at the largest size, in the order of ``tree.ids``; [vocabulary size], or
            [vocabulary size, texts].
        tree: the tokenizer.
    """
    undoing = unmerge(counts, tree.left, tree.right)
    tokens = undoing.tokens
    sizes = np.arange(tree.smallest_size, tree.smallest_size + len(tokens))
    entropy = np.log(tokens) - undoing.sum_over_vocabulary(lambda n: xlogy(n, n.astype(np.float64))) / tokens
    powers = undoing.sum_over_vocabulary(lambda n: n.astype(np.float64) ** RENYI_ORDER)
    renyi = (np.log(powers) - RENYI_ORDER * np.log(tokens)) / (1 - RENYI_ORDER)
    rare = undoing.sum_over_vocabulary(lambda n: (n < RARE_BELOW).astype(np.int64))
    pieces = tree.partial.astype(np.int64)
    gained = pieces[tree.left] + pieces[tree.right] - pieces[tree.smallest_size :]
    partial = undoing.at_every_size(pieces @ counts, (undoing.undone.T * gained).T)
    return Curve(tokens, entropy, (renyi.T / np.log(sizes)).T, rare, partial)
