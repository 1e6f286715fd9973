"""A finished vocabulary study: its folder, its curves, and what they say at a size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import csv

from fits.errors import UserError, nearest
from fits.html import card
from fits.schema import Schema
from trainer_small.data.documents import Split
from vocab_study.corpus.corpus import GroupSummary
from vocab_study.tokenizers.merge_tree import cut
from vocab_study.tokenizers.tokenizer import load, save

ALL = "all"
"""The group that holds the whole text."""


class StudySummary(Schema):
    """What ``study.json`` holds: how a study was made and the text its curves are of."""

    schema_version: Literal[2] = 2
    fingerprint: str
    """Hash of all that decides the study: the corpus and the options."""
    corpus_fingerprint: str
    trainer: str
    """The libraries that trained and encoded; it does not change the figures."""
    pretokenizer: str | None
    """Name of the pattern that splits text first; none where the tokenizer was given."""
    tokenizer: str | None
    """The file of the tokenizer that was given; none where it was trained here."""
    smallest_size: int
    largest_size: int
    filled: bool
    """Whether the text filled the size that was asked for."""
    text: dict[Split, dict[str, GroupSummary]]
    """Documents, bytes and characters of each split and group, the group ``all`` in."""
    words: dict[str, int]
    """Words of each group's held-out text, what white space parts: eojeol in Korean, hardly any in Chinese."""
    parallel: str | None = None
    """The file of aligned text that ``parity.csv`` is of."""
    reference: str | None = None
    """The language that parity is held against."""


@dataclass(frozen=True)
class Study:
    """A finished study; sizes run from ``summary.smallest_size`` to ``summary.largest_size``."""

    directory: Path
    summary: StudySummary

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Open a study folder.

        Raises:
            UserError: the folder is no finished study.
        """
        directory = Path(directory)
        if not (directory / "study.json").is_file():
            raise UserError(
                f"{directory} is no finished study; make one with: scaling vocab study CORPUS --out {directory}"
            )
        return cls(directory, StudySummary.load(directory / "study.json"))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """``compression.csv``: a row for each split, group and vocabulary size."""
        name = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        options = csv.ConvertOptions(column_types={"split": name, "group": name})
        return csv.read_csv(self.directory / "compression.csv", convert_options=options).to_pandas()

    @cached_property
    def _by_text(self) -> dict[tuple[str, str], pd.DataFrame]:
        return dict(iter(self.curves.groupby(["split", "group"], observed=True)))  # type: ignore[arg-type]

    @property
    def sizes(self) -> np.ndarray:
        """All vocabulary sizes of the curves."""
        return np.arange(self.summary.smallest_size, self.summary.largest_size + 1)

    @property
    def groups(self) -> list[str]:
        """The groups with held-out text, ``all`` last."""
        names = self.summary.text["validation"]
        return [name for name in names if name != ALL] + [ALL]

    def column(self, name: str, group: str = ALL, split: Split = "validation") -> np.ndarray:
        """One column of the curves over all ``sizes``.

        Raises:
            UserError: the split has no text of that group.
        """
        known = self.summary.text[split]
        if group not in known:
            raise UserError(
                f"{self.directory}: no {split} text of group '{group}'{nearest(group, known)}; "
                f"the groups are {', '.join(known)}."
            )
        return self._by_text[split, group][name].to_numpy()

    def at(self, vocab_size: int, name: str, group: str = ALL, split: Split = "validation") -> float:
        """One value of the curves: column ``name`` at ``vocab_size``.

        Raises:
            UserError: the size is not in the study, or the split has no text of that group.
        """
        self._check(vocab_size)
        return self.column(name, group, split)[vocab_size - self.summary.smallest_size].item()

    def _check(self, vocab_size: int) -> None:
        if vocab_size < self.summary.smallest_size:
            raise UserError(
                f"{self.directory}: vocabulary size {vocab_size} is below {self.summary.smallest_size}, the special "
                "tokens and bytes that are in every size of this study; choose a larger one."
            )
        if vocab_size > self.summary.largest_size:
            raise UserError(
                f"{self.directory}: vocabulary size {vocab_size} is above {self.summary.largest_size}, the largest "
                "of this study; study again with a larger --max-size."
            )

    def tokens_per_byte(self, vocab_size: int, group: str = ALL, split: Split = "validation") -> float:
        """Tokens per UTF-8 byte of text, end-of-text tokens out."""
        return self.at(vocab_size, "tokens", group, split) / self.summary.text[split][group].bytes

    def bytes_per_token(self, vocab_size: int, group: str = ALL, split: Split = "validation") -> float:
        """UTF-8 bytes of text per token, end-of-text tokens out."""
        return 1 / self.tokens_per_byte(vocab_size, group, split)

    def characters_per_token(self, vocab_size: int, group: str = ALL, split: Split = "validation") -> float:
        """Characters of text per token, end-of-text tokens out."""
        return self.summary.text[split][group].characters / self.at(vocab_size, "tokens", group, split)

    def entropy(self, vocab_size: int, group: str = ALL, split: Split = "validation") -> float:
        """Entropy of the unigram distribution, nats per token."""
        return self.at(vocab_size, "entropy", group, split)

    def tokenizer_file(self, vocab_size: int) -> Path:
        """The ``tokenizer.json`` of any size, cut from the largest when it is first asked for."""
        self._check(vocab_size)
        path = self.directory / "tokenizers" / str(vocab_size) / "tokenizer.json"
        if not path.is_file():
            largest = self.directory / "tokenizers" / str(self.summary.largest_size) / "tokenizer.json"
            save(cut(load(largest), vocab_size, str(largest)), path)
        return path

    @cached_property
    def parity(self) -> pd.DataFrame | None:
        """``parity.csv``, where the study was given aligned text: a row for each language and vocabulary size."""
        return pd.read_csv(self.directory / "parity.csv") if self.summary.parallel else None

    def details(self, vocab_size: int) -> pd.DataFrame:
        """All measures of held-out text at one size, a row a group; shares and ratios, and nats for the entropy."""
        rows = {}
        for group in self.groups:
            text = self.summary.text["validation"][group]
            tokens = self.at(vocab_size, "tokens", group)
            rows[group] = {
                "bytes_per_token": text.bytes / tokens,
                "characters_per_token": text.characters / tokens,
                "tokens_per_word": tokens / self.summary.words[group],
                "entropy": self.entropy(vocab_size, group),
                "renyi_efficiency": self.at(vocab_size, "renyi_efficiency", group),
                "partial_character_tokens": self.at(vocab_size, "partial_tokens", group) / tokens,
            }
            if self.parity is not None:
                chosen = (self.parity["language"] == group) & (self.parity["vocab_size"] == vocab_size)
                found = self.parity.loc[chosen, "parity"].to_numpy()
                rows[group]["parity"] = 1.0 if group == self.summary.reference else found[0] if len(found) else np.nan
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")

    def table(self, sizes: Sequence[int] = ()) -> pd.DataFrame:
        """Held-out bytes per token of each group, and the entropy of the whole, at ``sizes`` and the powers of two."""
        largest = self.summary.largest_size
        powers = [2**power for power in range(9, 31) if self.summary.smallest_size <= 2**power <= largest]
        rows = {}
        for size in sorted({*powers, *sizes, largest}):
            rows[size] = {group: self.bytes_per_token(size, group) for group in self.groups}
            rows[size] |= {"entropy": self.entropy(size)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("vocab_size")

    def _repr_html_(self) -> str:
        table = self.table()
        return card(
            f"Vocabularies of {self.summary.smallest_size:,} to {self.summary.largest_size:,}",
            about="held-out bytes per token of each group of text, and the entropy of the whole in nats per token",
            columns=["size", *table.columns],
            rows=[[int(size), *map(float, row)] for size, row in zip(table.index, table.to_numpy(), strict=True)],
        )
