"""Optional packages: the sentence that says which extra to install, and code of theirs run in a process of its own."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

from fits.errors import UserError
from fits.version import DISTRIBUTION


class NotInstalled(UserError):
    """A check that could not be made, because the package that makes it is not here."""


def how_to_install(extra: str) -> str:
    """The command that brings an extra: from the clone this package is installed from, else by its name."""
    try:
        installed = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        installed = None
    origin = json.loads(installed or "{}").get("url", "")
    if origin.startswith("file://"):
        folder = urllib.parse.unquote(urllib.parse.urlparse(origin).path)
        return f"pip install -e '{folder}[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def require(module: str, extra: str) -> None:
    """Stop unless ``module`` can be imported.

    Raises:
        NotInstalled: names the extra that brings it.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent package is missing
        found = None
    if found is None:
        raise NotInstalled(f"{module} is not installed; install it with: {how_to_install(extra)}")


def run_module(module: str, *arguments: str, text: str = "", timeout: float = 600) -> str:
    """Run ``python -m module`` apart from this process, which such packages would change; returns its last line.

    Raises:
        UserError: it failed; gives the last line of its complaint.
    """
    # The child finds this package even when it is used from a checkout that is not installed.
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(path for path in (root, os.environ.get("PYTHONPATH")) if path)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": paths},
    )
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise UserError(complaint[:400])
    return done.stdout.strip().splitlines()[-1]
