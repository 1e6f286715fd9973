"""A corpus -> tokenizers of every size and exact compression curves, in one training and one encoding."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import csv

from fits.errors import UserError, nearest
from fits.files import write_bytes
from fits.schema import Schema
from trainer_small.documents import Split, read_documents
from vocab_study.compression import Curve, curve, merge_parts
from vocab_study.corpus import CorpusManifest, GroupSummary, SplitSummary, load_manifest
from vocab_study.tokenizer import END_OF_TEXT, SMALLEST_SIZE, check_size, load, prefix, save
from vocab_study.training import Progress, train_and_count

DEFAULT_MAX_SIZE = 131_072
ALL = "all"
"""The group that holds the whole text."""


class StudySummary(Schema):
    """What ``study.json`` holds: how a study was made and the text its curves are of."""

    schema_version: Literal[1] = 1
    fingerprint: str
    """Hash of all that decides the study: the corpus and the options."""
    corpus_fingerprint: str
    trainer: str
    """The libraries that trained and encoded; it does not change the figures."""
    pretokenizer: Literal["gpt2"] = "gpt2"
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    smallest_size: int = SMALLEST_SIZE
    largest_size: int
    filled: bool
    """Whether the text filled the size that was asked for."""
    text: dict[Split, dict[str, GroupSummary]]
    """Documents, bytes and characters of each split and group, the group ``all`` in."""


@dataclass(frozen=True)
class Study:
    """A finished study; sizes run from 257 to ``summary.largest_size``."""

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
        check_size(vocab_size)
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
            save(prefix(load(largest), vocab_size), path)
        return path

    def table(self, sizes: Sequence[int] = ()) -> pd.DataFrame:
        """Held-out bytes per token of each group, and the entropy of the whole, at ``sizes`` and the powers of two."""
        largest = self.summary.largest_size
        powers = [2**power for power in range(9, 31) if 2**power <= largest]
        rows = {}
        for size in sorted({*powers, *sizes, largest}):
            rows[size] = {group: self.bytes_per_token(size, group) for group in self.groups}
            rows[size] |= {"entropy": self.entropy(size)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("vocab_size")

    def _repr_html_(self) -> str:
        return self.table().round(3).to_html()


def study_vocabulary(
    corpus: str | Path,
    out: str | Path,
    *,
    max_size: int | None = None,
    sizes: Sequence[int] = (),
    progress: Progress | None = None,
) -> Study:
    """Train one tokenizer at the largest size and measure every smaller one on held-out and on training text.

    Writes ``tokenizers/<size>/tokenizer.json`` for ``sizes`` and the largest, ``compression.csv`` with every size,
    and ``study.json`` last. A call with the same corpus and ``max_size`` finds the study made.

    Args:
        corpus: a corpus folder (``build_corpus``); only its train split is trained on.
        out: the study folder.
        max_size: the largest vocabulary; ``None`` takes 131,072 or what the text fills.
        sizes: the sizes whose tokenizers are wanted now; others can be cut later.
        progress: called while documents are read and encoded.

    Raises:
        UserError: a size out of range, or a text too small for ``max_size``.
    """
    manifest = load_manifest(corpus)
    out = Path(out)
    for size in (*sizes, *([max_size] if max_size is not None else [])):
        check_size(size)
    inputs = (manifest.fingerprint, manifest.train.sha256, manifest.validation.sha256, max_size)
    fingerprint = hashlib.sha256(repr(inputs).encode()).hexdigest()
    study = _already_made(out, fingerprint)
    if study is None:
        study = _make(Path(corpus), manifest, out, max_size, fingerprint, progress or (lambda stage, done, total: None))
    for size in sizes:
        study.tokenizer_file(size)
    return study


def _already_made(out: Path, fingerprint: str) -> Study | None:
    try:
        study = Study.load(out)
    except UserError:
        return None  # not there, of another version, or damaged: made again
    largest = out / "tokenizers" / str(study.summary.largest_size) / "tokenizer.json"
    whole = (out / "compression.csv").is_file() and largest.is_file()
    return study if whole and study.summary.fingerprint == fingerprint else None


def _make(
    corpus: Path,
    manifest: CorpusManifest,
    out: Path,
    max_size: int | None,
    fingerprint: str,
    report: Progress,
) -> Study:
    text: dict[Split, dict[str, GroupSummary]] = {
        "validation": _with_all(manifest.validation),
        "train": _with_all(manifest.train),
    }

    def read(stage: str, split: Split) -> Iterator[tuple[str, str]]:
        done = 0
        for document in read_documents(corpus, split):
            yield document.source, document.text
            done += len(document.text.encode())
            report(stage, done, text[split][ALL].bytes)

    counted = train_and_count(read, max_size or DEFAULT_MAX_SIZE, report)
    reached = counted.tokenizer.get_vocab_size()
    if max_size is not None and reached < max_size:
        raise UserError(
            f"{corpus}: its training text fills a vocabulary of {reached} tokens, not {max_size}; "
            f"give --max-size {reached} or less, or more text."
        )
    left, right = merge_parts(counted.tokenizer)
    curves = {}
    for split, groups in text.items():
        whole = np.sum([counted.counts[split, group] for group in groups if group != ALL], axis=0)
        for group in groups:
            curves[split, group] = curve(whole if group == ALL else counted.counts[split, group], left, right)
    summary = StudySummary(
        fingerprint=fingerprint,
        corpus_fingerprint=manifest.fingerprint,
        trainer=counted.trainer,
        largest_size=reached,
        filled=reached == (max_size or DEFAULT_MAX_SIZE),
        text=text,
    )
    (out / "study.json").unlink(missing_ok=True)  # so that it never describes the files of another study
    for stale in (out / "tokenizers").glob("*/tokenizer.json"):
        stale.unlink()
    save(counted.tokenizer, out / "tokenizers" / str(reached) / "tokenizer.json")
    write_bytes(out / "compression.csv", _csv(curves, text))
    summary.save(out / "study.json")
    return Study(out, summary)


def _with_all(split: SplitSummary) -> dict[str, GroupSummary]:
    if ALL in split.groups:
        raise UserError(f"the corpus has a group named '{ALL}', the name of the whole; rename it with --by.")
    whole = GroupSummary(documents=split.documents, bytes=split.bytes, characters=split.characters)
    return {**split.groups, ALL: whole}


def _csv(curves: dict[tuple[Split, str], Curve], text: dict[Split, dict[str, GroupSummary]]) -> bytes:
    """Six digits are more than any figure needs and keep the file small; the token counts are exact."""
    blocks = []
    for (split, group), drawn in curves.items():
        tokens, counted = drawn.tokens, text[split][group]
        columns = {
            "vocab_size": np.arange(SMALLEST_SIZE, SMALLEST_SIZE + len(tokens)),
            "tokens": tokens,
            "bytes_per_token": np.round(counted.bytes / tokens, 6),
            "entropy": np.round(drawn.entropy, 6),
            "renyi_efficiency": np.round(drawn.renyi_efficiency, 6),
            "rare_tokens": drawn.rare_tokens,
        }
        names = {"split": [split] * len(tokens), "group": [group] * len(tokens)}
        blocks.append(pyarrow.table(names | columns))
    sink = io.BytesIO()
    csv.write_csv(pyarrow.concat_tables(blocks), sink)
    return sink.getvalue()
