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
from tokenizers import Tokenizer

from fits.errors import UserError, nearest
from fits.files import write_bytes
from fits.html import card
from fits.schema import Schema
from trainer_small.documents import Split, read_documents
from vocab_study.compression import Curve, count_tokens, curve, unmerge
from vocab_study.corpus import CorpusManifest, GroupSummary, SplitSummary, load_manifest
from vocab_study.merge_tree import MergeTree, cut
from vocab_study.parity import parity_curves
from vocab_study.split_patterns import split_pattern
from vocab_study.tokenizer import check_size, load, save
from vocab_study.tokenizer_files import read_tokenizer
from vocab_study.training import Counted, Progress, Read, count_with, train_and_count
from vocab_study.words import WordCount

DEFAULT_MAX_SIZE = 131_072
ALL = "all"
"""The group that holds the whole text."""


CHECKED_CHARACTERS = 200_000
"""Of held-out text, on which a tokenizer made elsewhere is cut and compared."""


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


@dataclass(frozen=True)
class _Asked:
    """What decides a study beside its corpus."""

    max_size: int | None
    pretokenizer: str | None
    tokenizer: Path | None
    parallel: Path | None
    reference: str

    def fingerprint(self, manifest: CorpusManifest) -> str:
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.tokenizer, self.parallel) if path]
        inputs = (manifest.fingerprint, manifest.train.sha256, manifest.validation.sha256)
        return hashlib.sha256(
            repr((inputs, self.max_size, self.pretokenizer, files, self.reference)).encode()
        ).hexdigest()


def study_vocabulary(
    corpus: str | Path,
    out: str | Path,
    *,
    max_size: int | None = None,
    sizes: Sequence[int] = (),
    pretokenizer: str | None = None,
    tokenizer: str | Path | None = None,
    parallel: str | Path | None = None,
    reference: str = "en",
    progress: Progress | None = None,
) -> Study:
    """Measure every vocabulary size up to the largest on held-out and on training text, from one tokenizer.

    The tokenizer is trained at the largest size, or taken as given. Writes ``tokenizers/<size>/tokenizer.json`` for
    ``sizes`` and the largest, ``compression.csv`` with every size, ``parity.csv`` where there is aligned text, and
    ``study.json`` last. A call with the same corpus and options finds the study made.

    Args:
        corpus: a corpus folder (``build_corpus``); only its train split is trained on.
        out: the study folder.
        max_size: the largest vocabulary; ``None`` takes 131,072 or what the text fills.
        sizes: the sizes whose tokenizers are wanted now; others can be cut later.
        pretokenizer: how text is split before pairs are merged: ``gpt2`` (also ``None``), ``cl100k``, ``o200k``,
            ``qwen2``.
        tokenizer: a file to study instead of training, ``tokenizer.json`` or ``.tiktoken``; byte-pair encoding.
        parallel: aligned text for parity (see ``parity_curves``).
        reference: the language parity is held against.
        progress: called while documents are read and encoded.

    Raises:
        UserError: a size out of range, a text too small for ``max_size``, or a tokenizer that is no BPE.
    """
    manifest = load_manifest(corpus)
    out = Path(out)
    if tokenizer is None:
        for size in (*sizes, *([max_size] if max_size is not None else [])):
            check_size(size)
        split_pattern(pretokenizer or "gpt2")
    elif max_size is not None:
        raise UserError(f"the largest size of {tokenizer} is its own; leave --max-size out.")
    file = None if tokenizer is None else Path(tokenizer)
    if file is not None and file.is_dir():
        file = file / "tokenizer.json"
    for path in (file, parallel):
        if path is not None and not Path(path).is_file():
            raise UserError(f"{path}: no such file; check the path.")
    asked = _Asked(max_size, pretokenizer, file, None if parallel is None else Path(parallel), reference)
    fingerprint = asked.fingerprint(manifest)
    study = _already_made(out, fingerprint)
    if study is None:
        study = _make(Path(corpus), manifest, out, asked, fingerprint, progress or (lambda stage, done, total: None))
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
    corpus: Path, manifest: CorpusManifest, out: Path, asked: _Asked, fingerprint: str, report: Progress
) -> Study:
    text: dict[Split, dict[str, GroupSummary]] = {
        "validation": _with_all(manifest.validation),
        "train": _with_all(manifest.train),
    }
    words = WordCount()

    def stream(stage: str, split: Split) -> Iterator[tuple[str, str]]:
        done = 0
        for document in read_documents(corpus, split):
            yield document.source, document.text
            done += len(document.text.encode())
            report(stage, done, text[split][ALL].bytes)

    def read(stage: str, split: Split) -> Iterator[tuple[str, str]]:
        return words.watch(stream(stage, split)) if split == "validation" else stream(stage, split)

    counted = _count(corpus, asked, read, report)
    tree = counted.tree
    if asked.tokenizer:
        _check_cuts(asked.tokenizer, counted.tokenizer, tree, stream("checking", "validation"))
    found: dict[tuple[Split, str], np.ndarray] = {}
    for split, groups in text.items():
        found |= {(split, group): counted.counts[split, group][tree.ids] for group in groups if group != ALL}
        found[split, ALL] = np.sum([found[split, group] for group in groups if group != ALL], axis=0)
    curves = curve(np.stack(list(found.values()), axis=1), tree)
    parity = None
    if asked.parallel:
        parity = parity_curves(asked.parallel, counted.tokenizer, tree, asked.reference)
    reached = len(tree.ids)
    summary = StudySummary(
        fingerprint=fingerprint,
        corpus_fingerprint=manifest.fingerprint,
        trainer=counted.trainer,
        pretokenizer=asked.pretokenizer if asked.tokenizer else asked.pretokenizer or "gpt2",
        tokenizer=str(asked.tokenizer) if asked.tokenizer else None,
        smallest_size=tree.smallest_size,
        largest_size=reached,
        filled=bool(asked.tokenizer) or reached == (asked.max_size or DEFAULT_MAX_SIZE),
        text=text,
        words=words.words | {ALL: sum(words.words.values())},
        parallel=str(asked.parallel) if asked.parallel else None,
        reference=asked.reference if asked.parallel else None,
    )
    (out / "study.json").unlink(missing_ok=True)  # so that it never describes the files of another study
    (out / "parity.csv").unlink(missing_ok=True)
    for stale in (out / "tokenizers").glob("*/tokenizer.json"):
        stale.unlink()
    save(counted.tokenizer, out / "tokenizers" / str(reached) / "tokenizer.json")
    write_bytes(out / "compression.csv", _csv(list(found), curves, text, tree.smallest_size))
    if parity is not None:
        write_bytes(out / "parity.csv", parity.to_csv(index=False).encode())
    summary.save(out / "study.json")
    return Study(out, summary)


def _count(corpus: Path, asked: _Asked, read: Read, report: Progress) -> Counted:
    if asked.tokenizer:
        tokenizer = read_tokenizer(asked.tokenizer, asked.pretokenizer)
        return count_with(tokenizer, read, str(asked.tokenizer))
    counted = train_and_count(read, asked.max_size or DEFAULT_MAX_SIZE, asked.pretokenizer or "gpt2", report)
    reached = counted.tokenizer.get_vocab_size()
    if asked.max_size is not None and reached < asked.max_size:
        raise UserError(
            f"{corpus}: its training text fills a vocabulary of {reached} tokens, not {asked.max_size}; "
            f"give --max-size {reached} or less, or more text."
        )
    return counted


def _check_cuts(source: Path, tokenizer: Tokenizer, tree: MergeTree, texts: Iterator[tuple[str, str]]) -> None:
    """Cut a given tokenizer at three sizes and hold what it encodes against the curve.

    Raises:
        UserError: they differ, so the curve of this tokenizer would be wrong.
    """
    sample, characters = [], 0
    for _, text in texts:
        sample.append(("", text))
        characters += len(text)
        if characters > CHECKED_CHARACTERS:
            break
    tokens = unmerge(count_tokens(tokenizer, sample)[""][tree.ids], tree.left, tree.right).tokens
    spans = np.linspace(0.05, 0.9, 3)
    for size in (tree.smallest_size + (spans * len(tree.left)).astype(int)).tolist():
        alone = int(count_tokens(cut(tokenizer, size, str(source)), sample)[""].sum())
        if alone != tokens[size - tree.smallest_size]:
            raise UserError(
                f"{source}: cut to {size} tokens it encodes held-out text in {alone} tokens, its undone merges say "
                f"{tokens[size - tree.smallest_size]}; smaller sizes of this tokenizer do not follow from it."
            )


def _with_all(split: SplitSummary) -> dict[str, GroupSummary]:
    if ALL in split.groups:
        raise UserError(f"the corpus has a group named '{ALL}', the name of the whole; rename it with --by.")
    whole = GroupSummary(documents=split.documents, bytes=split.bytes, characters=split.characters)
    return {**split.groups, ALL: whole}


def _csv(
    texts: list[tuple[Split, str]], curves: Curve, text: dict[Split, dict[str, GroupSummary]], smallest: int
) -> bytes:
    """Six digits are more than any figure needs and keep the file small; the token counts are exact."""
    blocks = []
    for column, (split, group) in enumerate(texts):
        tokens = curves.tokens[:, column]
        columns = {
            "vocab_size": np.arange(smallest, smallest + len(tokens)),
            "tokens": tokens,
            "bytes_per_token": np.round(text[split][group].bytes / tokens, 6),
            "entropy": np.round(curves.entropy[:, column], 6),
            "renyi_efficiency": np.round(curves.renyi_efficiency[:, column], 6),
            "rare_tokens": curves.rare_tokens[:, column],
            "partial_tokens": curves.partial_tokens[:, column],
        }
        names = {"split": pyarrow.repeat(split, len(tokens)), "group": pyarrow.repeat(group, len(tokens))}
        blocks.append(pyarrow.table(names | columns))
    sink = io.BytesIO()
    csv.write_csv(pyarrow.concat_tables(blocks), sink)
    return sink.getvalue()
