"""A corpus -> tokenizers of every size and exact compression curves, in one training and one encoding."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv
from tokenizers import Tokenizer

from fits.errors import UserError
from fits.files import write_bytes
from trainer_small.data.documents import Split, read_documents
from vocab_study.corpus.corpus import CorpusManifest, GroupSummary, SplitSummary, load_manifest
from vocab_study.study.study import ALL, Study, StudySummary
from vocab_study.tokenizers.compression import Curve, count_tokens, curve, unmerge
from vocab_study.tokenizers.merge_tree import MergeTree, cut
from vocab_study.tokenizers.parity import parity_curves
from vocab_study.tokenizers.split_patterns import split_pattern
from vocab_study.tokenizers.tokenizer import check_size, save
from vocab_study.tokenizers.tokenizer_files import read_tokenizer
from vocab_study.tokenizers.training import Counted, Progress, Read, count_with, train_and_count

DEFAULT_MAX_SIZE = 131_072
CHECKED_CHARACTERS = 200_000
"""Of held-out text, on which a tokenizer made elsewhere is cut and compared."""


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


class WordCount:
    """Counts the words of each group while texts pass by."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def watch(self, texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same pairs of group and text; counting starts anew with every call."""
        self.words = {}
        for group, text in texts:
            self.words[group] = self.words.get(group, 0) + len(text.split())
            yield group, text
