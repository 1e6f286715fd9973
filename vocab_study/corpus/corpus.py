"""Text of any source -> corpus/{train,validation}.jsonl and a manifest that says how they were made."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fits.errors import UserError
from fits.progress import Progress
from fits.schema import Schema
from vocab_study.corpus.sources import Found, Reading, Source, open_sources
from vocab_study.corpus.splits import SplitFile, SplitWriter

SPLIT_RULE = (
    "validation if blake2b(key, 8 bytes, big-endian) / 2**64 < validation_fraction; the key is the text, or in the "
    "standard library the module's path; if a split stays empty, the document nearest to it moves there"
)
LISTED_FAULTS = 1000


class GroupSummary(Schema):
    """Counts of some text."""

    documents: int
    bytes: int
    """UTF-8."""
    characters: int


class SplitSummary(Schema):
    """What one split holds."""

    documents: int
    bytes: int
    characters: int
    groups: dict[str, GroupSummary]
    file_bytes: int
    sha256: str


class SourceSummary(Schema):
    """What one source gave."""

    name: str
    version: str | None
    files: int
    documents: int
    bytes: int
    sha256: str
    """Of the names and contents of the source's files, in reading order."""


class SkippedInput(Schema):
    """An input that is no document."""

    place: str
    reason: str


class CorpusManifest(Schema):
    """What a corpus holds and how it came to be."""

    schema_version: Literal[1] = 1
    fingerprint: str
    """Hash of all that decides the corpus: the contents of the sources and the options."""
    validation_fraction: float
    split_rule: str
    train: SplitSummary
    validation: SplitSummary
    sources: list[SourceSummary]
    duplicates: int
    """Documents dropped because an earlier one has the same text."""
    skipped: int
    skipped_inputs: list[SkippedInput]
    """The first thousand of what was skipped."""

    @property
    def groups(self) -> list[str]:
        return sorted(self.train.groups.keys() | self.validation.groups.keys())


def build_corpus(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    validation_fraction: float = 0.05,
    by: str | None = None,
    text_field: str = "text",
    on_error: Literal["fail", "skip"] = "fail",
    progress: Progress | None = None,
) -> CorpusManifest:
    """Make a corpus folder; text stays as it is (no Unicode normalisation).

    A document goes to validation when the hash of its text falls below ``validation_fraction`` (the hash of its
    module's path for the standard library, so that a docstring never faces its own source). The split depends on no
    order and no other document; a text seen before is dropped, so no validation text is in train. Memory: the
    largest document and about 100 bytes a document. A call with the same inputs finds the corpus made.

    Args:
        sources: ``python:stdlib``, folders of text, ``.jsonl``, ``.jsonl.gz``, ``.jsonl.zst`` or Parquet files.
        out: the corpus folder.
        validation_fraction: expected share of documents held out.
        by: what makes a group: ``folder`` (the first below the source), ``file`` or a field of the records;
            ``None`` takes a record's ``language`` or ``source``, else the folder.
        text_field: the field or column that holds the text.
        on_error: ``fail`` at the first input that is no document, or ``skip`` and list it.
        progress: called as the input files are read.

    Raises:
        UserError: an input that is no document, fewer than two documents, or an option out of range.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1 (0.05, say).")
    if on_error not in ("fail", "skip"):
        raise UserError(f"on_error is '{on_error}'; it must be fail or skip.")
    opened, reading = open_sources(sources), Reading(text_field, by)
    hashes = [_hash_files(source) for source in opened]
    versions = [source.version for source in opened]
    options = (hashes, versions, SPLIT_RULE, validation_fraction, by, text_field, on_error)
    fingerprint = hashlib.sha256(repr(options).encode()).hexdigest()
    made = _already_made(Path(out), fingerprint)
    if made is not None:
        return made

    skipped = 0
    listed: list[SkippedInput] = []
    summaries: list[SourceSummary] = []
    total = sum(file.stat().st_size for source in opened for file in source.files)
    done = 0
    with SplitWriter(Path(out), validation_fraction) as writer:
        for source, sha256 in zip(opened, hashes, strict=True):
            documents, size = writer.documents, writer.bytes
            for file in source.files:
                for item in source.read(file, reading):
                    if isinstance(item, Found):
                        writer.add(item.document, item.split_key)
                    elif on_error == "skip":
                        skipped += 1
                        if skipped <= LISTED_FAULTS:
                            listed.append(SkippedInput(place=item.place, reason=item.reason))
                    else:
                        raise UserError(f"{item.place}: {item.reason}; {item.mend}, or pass --on-error skip.")
                done += file.stat().st_size
                if progress:
                    progress(done, total)
            summaries.append(
                SourceSummary(
                    name=source.name,
                    version=source.version,
                    files=len(source.files),
                    documents=writer.documents - documents,
                    bytes=writer.bytes - size,
                    sha256=sha256,
                )
            )
        _check_size(writer, sources, skipped)
        writer.fill_empty_split()
        manifest = CorpusManifest(
            fingerprint=fingerprint,
            validation_fraction=validation_fraction,
            split_rule=SPLIT_RULE,
            train=_summary(writer.files["train"]),
            validation=_summary(writer.files["validation"]),
            sources=summaries,
            duplicates=writer.duplicates,
            skipped=skipped,
            skipped_inputs=listed,
        )
        writer.publish()
    manifest.save(Path(out) / "manifest.json")
    return manifest


def load_manifest(corpus: str | Path) -> CorpusManifest:
    """Read the manifest of a corpus folder.

    Raises:
        UserError: the folder is no finished corpus.
    """
    file = Path(corpus) / "manifest.json"
    if not file.is_file():
        raise UserError(f"{corpus} is no finished corpus; make one with: scaling corpus SOURCE --out {corpus}")
    return CorpusManifest.load(file)


def _hash_files(source: Source) -> str:
    digest = hashlib.sha256()
    for file in source.files:
        digest.update(f"{source.id_of(file)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _already_made(out: Path, fingerprint: str) -> CorpusManifest | None:
    """The manifest of ``out`` when the same inputs made it and both files are whole."""
    if not (out / "manifest.json").is_file():
        return None
    try:
        manifest = CorpusManifest.load(out / "manifest.json")
    except UserError:
        return None  # of another version, or damaged: made again
    for name, split in (("train.jsonl", manifest.train), ("validation.jsonl", manifest.validation)):
        if not (out / name).is_file() or (out / name).stat().st_size != split.file_bytes:
            return None
    return manifest if manifest.fingerprint == fingerprint else None


def _check_size(writer: SplitWriter, sources: Sequence[str | Path], skipped: int) -> None:
    if writer.documents >= 2:
        return
    names = ", ".join(str(source) for source in sources)
    what = "no document" if writer.documents == 0 else "one document only"
    more = f" ({skipped} inputs were skipped)" if skipped else ""
    more += f" ({writer.duplicates} repeat its text)" if writer.duplicates else ""
    raise UserError(f"{names}: {what}{more}; a corpus needs at least two, one to train on and one to hold out.")


def _summary(file: SplitFile) -> SplitSummary:
    groups = {
        name: GroupSummary(documents=counts[0], bytes=counts[1], characters=counts[2])
        for name, counts in sorted(file.groups.items())
    }
    return SplitSummary(
        documents=sum(group.documents for group in groups.values()),
        bytes=sum(group.bytes for group in groups.values()),
        characters=sum(group.characters for group in groups.values()),
        groups=groups,
        file_bytes=file.size,
        sha256=file.sha256.hexdigest(),
    )
