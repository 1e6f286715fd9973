"""Train at the largest size and count its tokens in every split and group: the fast road and the reference.

Both give the same merges and the same counts. The reference trains and encodes with Hugging Face ``tokenizers``; the
fast road counts pre-tokens once and learns the merges on the distinct ones, which encodes them as well.
"""

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trainer_small.data.documents import Split
from vocab_study.tokenizers.compression import count_tokens
from vocab_study.tokenizers.merge_tree import MergeTree, take_apart
from vocab_study.tokenizers.merging import learn_merges
from vocab_study.tokenizers.pretokens import PretokenCounts, count_pretokens
from vocab_study.tokenizers.tokenizer import build_tokenizer, train_tokenizer, tree_of_bytes

SPLITS: tuple[Split, ...] = ("train", "validation")

Ints = NDArray[np.int64]
Read = Callable[[str, Split], Iterable[tuple[str, str]]]
"""Streams the group and the text of each document of a split; told the stage it is for."""
Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done and the whole."""


@dataclass(frozen=True)
class Counted:
    """A tokenizer and how often each of its ids occurs."""

    tokenizer: Tokenizer
    tree: MergeTree
    counts: dict[tuple[Split, str], Ints]
    """For each split and group, how often each id occurs, shape [largest id + 1]."""
    trainer: str
    """The libraries that made it."""


def train_and_count(read: Read, max_size: int, pretokenizer: str, report: Progress) -> Counted:
    """Train on the train split and encode both, by the fast road where it can be trusted."""
    texts = (((split, group), text) for split in SPLITS for group, text in read(f"counting {split}", split))
    pretokens = count_pretokens(texts, pretokenizer)
    if pretokens is None:
        tokenizer = train_tokenizer(
            (text for _, text in read("training", "train")), max_size, pretokenizer=pretokenizer
        )
        return count_with(tokenizer, read)
    return _by_pretokens(pretokens, max_size, pretokenizer, report)


def count_with(tokenizer: Tokenizer, read: Read, source: str = "the tokenizer") -> Counted:
    """Encode both splits with Hugging Face ``tokenizers``, the reference.

    Raises:
        UserError: the tokenizer is no BPE; nothing is read then.
    """
    tree = take_apart(tokenizer, source)
    counts: dict[tuple[Split, str], Ints] = {}
    for split in SPLITS:
        found = count_tokens(tokenizer, read(f"encoding {split}", split))
        counts |= {(split, group): histogram for group, histogram in found.items()}
    return Counted(tokenizer, tree, counts, f"tokenizers {importlib.metadata.version('tokenizers')}")


def _by_pretokens(found: PretokenCounts, max_size: int, pretokenizer: str, report: Progress) -> Counted:
    train = [counts for (split, _), counts in found.counts.items() if split == "train"]
    merged = learn_merges(
        found.pretokens, np.sum(train, axis=0), max_size, progress=lambda size: report("merging", size, max_size)
    )
    counts = {key: merged.histogram(occurrences) for key, occurrences in found.counts.items()}
    trainer = f"{found.counter} {importlib.metadata.version(found.counter)} and NumPy {np.__version__}"
    tokenizer = build_tokenizer(merged.left, merged.right, pretokenizer)
    return Counted(tokenizer, tree_of_bytes(merged.left, merged.right), counts, trainer)  # type: ignore[arg-type]
