"""What a part has found so far, on disk after every row: a part that is killed keeps what it had.

A part is a program of its own that fills one JSON file. When a row takes the process with it (a lost card, a crash of
a kernel), ``first_minutes.py`` starts the part again, and it goes on with the row after that one.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LEAST_SECONDS = 4.0
"""Left to a part for a row to be begun."""
_LOST = ("CUDA error", "cuBLAS", "CUBLAS", "CUDNN", "device-side assert", "AcceleratorError")
"""In an error's text where the process can no longer use its card."""


class TooLong(BaseException):
    """A row took longer than it may; no ``except Exception`` of a library holds it up."""


def arguments(description: str | None) -> argparse.Namespace:
    """What ``first_minutes.py`` tells a part."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file of this part")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what nobody keeps")
    parser.add_argument("--seconds", type=float, required=True, help="after which it will be killed")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a test; nothing is compiled")
    return parser.parse_args()


class Record:
    """One part's file.

    Args:
        options: of ``arguments``.
        clean: called after every row: frees what it held.
    """

    def __init__(self, options: argparse.Namespace, clean: Callable[[], None] = lambda: None) -> None:
        self._path, self._clean = options.out, clean
        self._end = time.monotonic() + options.seconds
        self.content = read(self._path)
        for key, empty in (("facts", {}), ("rows", []), ("left_out", []), ("tried", [])):
            self.content.setdefault(key, empty)
        if died := self.content.pop("trying", None):
            self._leave_out(died, "took its process with it: see the log")
            self._tried(died)

    def left(self) -> float:
        """Seconds until the part is killed."""
        return self._end - time.monotonic()

    def facts(self, **facts: Any) -> None:
        self.content["facts"] |= facts
        self._save()

    def row(self, **row: Any) -> None:
        self.content["rows"].append(row)
        self._save()

    def attempt(self, name: str, work: Callable[[], Any], limit: float) -> bool:
        """Do what makes a row or more. What it raises is noted, and the next one goes on.

        Args:
            name: of what is tried, once in a part.
            work: writes its rows itself.
            limit: seconds it may take, less where the part has less left.

        Returns:
            Whether it did all it should, now or before the part was started again.
        """
        if name in self.content["tried"]:
            return not any(each["what"] == name for each in self.content["left_out"])
        if self.left() < _LEAST_SECONDS:
            self._leave_out(name, "no time was left")
            self._tried(name)
            return False
        self.content["trying"] = name
        self._save()
        why, lost = None, False
        limit = min(limit, self.left() - _LEAST_SECONDS / 2)
        try:
            with _at_most(limit):
                work()
        except TooLong:
            why = f"stopped after {limit:.0f} s"
        except Exception as error:
            why = _in_one_line(error)
            lost = any(mark in why for mark in _LOST) and "out of memory" not in why
            print(f"-- {name}", file=sys.stderr)
            traceback.print_exc()
        del self.content["trying"]
        if why:
            self._leave_out(name, why)
        self._tried(name)
        if lost:
            os._exit(3)  # an orderly end would wait for the card
        self._clean()
        return why is None

    def _leave_out(self, name: str, why: str) -> None:
        self.content["left_out"].append({"what": name, "why": why})

    def _tried(self, name: str) -> None:
        self.content["tried"].append(name)
        self._save()

    def _save(self) -> None:
        write(self._path, self.content)


def read(path: Path) -> dict[str, Any]:
    """A part's file; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300].rstrip(": ")
