"""Plain files: written whole or not at all, and read with errors that name the place."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from fits.errors import UserError


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part (rename after fsync)."""
    path = Path(path)
    try:
        _write_beside(path, data)
    except OSError as error:  # named after the file that is wanted, not after the one beside it
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_beside(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    # mkstemp makes private files; a result should get the permissions any other new file gets.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented; NaN and infinities are refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: str | Path, value: Any, *, heading: str = "") -> None:
    """Write YAML in the given key order, with ``heading`` as comment lines at the top."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    write_text(path, comment + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def read_text(path: str | Path) -> str:
    """Read UTF-8 text.

    Raises:
        UserError: the file is missing, is a directory, cannot be read or is not UTF-8.
    """
    path = Path(path)
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory where a file is needed.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text; convert the file to UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg}); mend or remake the file.") from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    PyYAML takes ``1e21`` for text; the number fields of ``fits.schema`` accept it as the number it is.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    text = read_text(path)
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path} line {line}: not YAML ({error.problem}); mend the line.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error}); mend the file.") from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file (by its ending) whose top level is a mapping.

    Raises:
        UserError: the file is missing, malformed, or holds something other than a mapping.
    """
    value = read_json(path) if Path(path).suffix == ".json" else read_yaml(path)
    if value is None:
        raise UserError(f"{path} is empty; it must hold a mapping of keys to values.")
    if not isinstance(value, dict):
        raise UserError(f"{path}: the top level is a {type(value).__name__}; it must be a mapping of keys to values.")
    return value
