"""Where documents come from: folders of text, JSON Lines, Parquet, and Python's own standard library."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from fits.errors import UserError
from trainer_small.data.documents import Document
from vocab_study.corpus import standard_library

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
"""What reading a compressed file raises that is broken off or is none."""
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
BINARY_PROBE_BYTES = 8192  # the stretch that git, too, searches for a NUL byte


@dataclass(frozen=True)
class Found:
    """A document, and the key whose hash sends it to train or validation."""

    document: Document
    split_key: str


@dataclass(frozen=True)
class Fault:
    """Something in a source that is no document."""

    place: str
    reason: str
    mend: str


@dataclass(frozen=True)
class Reading:
    """How records become documents."""

    text_field: str = "text"
    by: str | None = None
    """Group by ``folder``, by ``file`` or by a field of the records (``language``, say); ``None`` takes the
    record's ``language`` or ``source`` when it has one, else the folder."""


@dataclass(frozen=True)
class Source:
    """One thing the user named, and the files it stands for in reading order."""

    name: str
    root: Path
    files: tuple[Path, ...]
    version: str | None = None

    def read(self, file: Path, reading: Reading) -> Iterator[Found | Fault]:
        """The documents of one of ``files``, streamed in file order, faults in their place."""
        if self.name == standard_library.NAME:
            for document, split_key in standard_library.read_module(file, self.root):
                yield Found(document, split_key)
        elif file.name.endswith(JSON_LINES):
            yield from _read_json_lines(self, file, reading)
        elif file.suffix == ".parquet":
            yield from _read_parquet(self, file, reading)
        else:
            yield _read_text(self, file, reading)

    def id_of(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file != self.root else file.name

    def group_of(self, file: Path, by: str | None) -> str:
        if by == "file":
            return self.id_of(file)
        folders = file.relative_to(self.root).parts[:-1]
        return folders[0] if folders else (self.root if self.root.is_dir() else self.root.absolute().parent).name


def open_source(name: str | Path) -> Source:
    """Find the files a source stands for.

    Args:
        name: ``python:stdlib``, a file, or a folder that is walked in sorted order, hidden entries left out.

    Raises:
        UserError: there is no such source, or the folder has no files.
    """
    if str(name).startswith("python:"):
        if str(name) != standard_library.NAME:
            raise UserError(f"{name}: no such source; the one built in is {standard_library.NAME}.")
        root, files = standard_library.module_files()
        return Source(standard_library.NAME, root, files, version=standard_library.version())
    root = Path(name)
    if root.is_file():
        return Source(str(name), root, (root,))
    if not root.is_dir():
        raise UserError(f"{name}: no such file or folder; check the path.")
    files = tuple(_walk(root))
    if not files:
        raise UserError(f"{name}: the folder has no files; name a folder of text, .jsonl or .parquet files.")
    return Source(str(name), root, files)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        yield from (Path(folder, entry) for entry in sorted(names) if not entry.startswith("."))


def _read_text(source: Source, file: Path, reading: Reading) -> Found | Fault:
    data = file.read_bytes()
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        return Fault(str(file), "a binary file, or text in UTF-16", "take it out of the folder or convert it to UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return Fault(str(file), f"byte {error.start} is not UTF-8 text", "convert the file to UTF-8")
    if reading.by not in (None, "folder", "file"):
        return Fault(str(file), f"a text file has no field '{reading.by}'", "group by folder or by file")
    return _found(source, file, str(file), text, source.id_of(file), source.group_of(file, reading.by))


def _found(source: Source, file: Path, place: str, text: Any, id: str, group: str) -> Found | Fault:
    if not isinstance(text, str):
        return Fault(place, f"the text is a {type(text).__name__}", "make it a string")
    if not text.strip():
        return Fault(place, "the text is empty", "fill it or take it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Fault(place, f"character {error.start} of the text is half a surrogate pair", "mend the text")
    return Found(Document(id, group, text), split_key=text)


def _read_json_lines(source: Source, file: Path, reading: Reading) -> Iterator[Found | Fault]:
    number = 0
    try:
        with open_lines(file) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _from_line(source, file, number, line, reading)
    except DAMAGED as error:
        yield Fault(str(file), f"the compressed data breaks off after line {number} ({error})", "fetch the file again")
        return
    if number == 0:
        yield Fault(str(file), "the file is empty", "fill it or take it out")


def open_lines(file: Path) -> io.BufferedIOBase | gzip.GzipFile:
    """Open JSON Lines, plain, gzip or zstd, as bytes."""
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    if file.suffix == ".zst":
        stream = zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(stream)  # type: ignore[arg-type]
    return file.open("rb")


def _from_line(source: Source, file: Path, number: int, line: bytes, reading: Reading) -> Found | Fault:
    place = f"{file} line {number}"
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Fault(place, f"byte {error.start} of the line is not UTF-8 text", "convert the file to UTF-8")
    except json.JSONDecodeError as error:
        return Fault(place, f"not JSON ({error.msg})", "mend the line")
    if not isinstance(record, dict):
        return Fault(place, f"a {type(record).__name__} where a record is needed", "mend the line")
    return _from_record(source, file, place, number, record, reading)


def _from_record(
    source: Source, file: Path, place: str, number: int, record: dict[str, Any], reading: Reading
) -> Found | Fault:
    if reading.text_field not in record:
        names = ", ".join(record) or "none"
        return Fault(place, f"no field '{reading.text_field}' (it has {names})", "name the right one with --text-field")
    if reading.by in (None, "folder", "file"):
        named = [] if reading.by else [record[key] for key in ("language", "source") if record.get(key)]
        group = named[0] if named else source.group_of(file, reading.by)
    elif record.get(reading.by):
        group = record[reading.by]
    else:
        return Fault(place, f"no field '{reading.by}' to group by", "add it or group by another")
    id = record.get("id", f"{source.id_of(file)}:{number}")
    return _found(source, file, place, record[reading.text_field], str(id), str(group))


def _read_parquet(source: Source, file: Path, reading: Reading) -> Iterator[Found | Fault]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        yield Fault(str(file), f"not a Parquet file ({error})", "fetch the file again")
        return
    wanted = [reading.text_field, "id", "language", "source", reading.by]
    columns = [name for name in table.schema_arrow.names if name in wanted]
    if reading.text_field not in columns:
        names = ", ".join(table.schema_arrow.names)
        mend = "name the right one with --text-field"
        yield Fault(str(file), f"no column '{reading.text_field}' (it has {names})", mend)
        return
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=columns):
        for row in range(batch.num_rows):
            number += 1
            place = f"{file} row {number}"
            try:
                record = {name: batch.column(name)[row].as_py() for name in columns}
            except UnicodeDecodeError as error:
                yield Fault(place, f"byte {error.start} of the text is not UTF-8", "write the column as UTF-8")
                continue
            yield _from_record(source, file, place, number, record, reading)
    if number == 0:
        yield Fault(str(file), "the file has no rows", "fill it or take it out")


def open_sources(names: Sequence[str | Path]) -> list[Source]:
    """``open_source`` for each name.

    Raises:
        UserError: no name at all, or one that is no source.
    """
    if not names:
        raise UserError(f"no source is given; name {standard_library.NAME}, a folder, a .jsonl or a .parquet file.")
    return [open_source(name) for name in names]
