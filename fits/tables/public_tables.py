"""Public run tables, fetched from where their authors published them into a folder of the user's.

Nothing of them is in this repository: ``public_tables.yaml`` names repository, commit, path and sha256. The folder is
``SCALING_DATA`` when that is set, else a cache in the home directory; one folder a table inside it.
"""

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import Literal

from fits.errors import UserError, nearest
from fits.files import read_mapping, write_bytes
from fits.schema import Schema

_BASE = "https://raw.githubusercontent.com"
_SECONDS = 30


class TableFile(Schema):
    """One file: its name here, its path in the repository, and the sha256 of its content."""

    name: str
    path: str
    sha256: str


class PublicTable(Schema):
    """One table and where it was published."""

    name: str
    what: str
    repository: str
    commit: str
    licence: str
    files: list[TableFile]

    def url(self, file: TableFile, base: str = _BASE) -> str:
        """Where one file is published, at the commit that was checked."""
        return f"{base}/{self.repository}/{self.commit}/{urllib.parse.quote(file.path)}"

    def missing(self, root: Path) -> list[TableFile]:
        """The files that ``root`` lacks or holds with another content."""
        return [file for file in self.files if not _is(root / self.name / file.name, file.sha256)]


class _Tables(Schema):
    schema_version: Literal[1] = 1
    tables: list[PublicTable]


@cache
def list_tables() -> tuple[PublicTable, ...]:
    """All tables that can be fetched."""
    return tuple(_Tables.parse(read_mapping(path := Path(__file__).with_name("public_tables.yaml")), path).tables)


def data_root() -> Path:
    """``SCALING_DATA``, or the cache folder."""
    given = os.environ.get("SCALING_DATA")
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-scaling"
    return Path(given).expanduser() if given else cached


def get_table(name: str, *, base: str = _BASE) -> Path:
    """The folder of a table, after fetching what it lacks and checking every sha256.

    Raises:
        UserError: no such table; a file cannot be fetched (says what to download and where to put it); or it is not
            the one that was checked.
    """
    table, root = _table(name), data_root()
    for file in table.missing(root):
        path, url = root / name / file.name, table.url(file, base)
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"{url} cannot be fetched ({reason}); download it elsewhere and put it at {path}."
            ) from None
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise UserError(
                f"{url} has sha256 {found[:12]}, not {file.sha256[:12]}: it is not the table that was checked."
            )
        write_bytes(path, content)
    return root / name


def find_table(name: str) -> Path | None:
    """The folder of a table where it is already here, whole and verified; nothing is fetched.

    Raises:
        UserError: no such table.
    """
    return None if _table(name).missing(data_root()) else data_root() / name


def _table(name: str) -> PublicTable:
    known = {table.name: table for table in list_tables()}
    if name not in known:
        raise UserError(f"There is no public table '{name}'{nearest(name, known)}; there are {', '.join(known)}.")
    return known[name]


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
