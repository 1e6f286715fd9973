"""A plugin of pytest: the outcome of every test as one line of JSON as soon as it is known."""

import json
import os
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that started the workers hears of it too
        return
    if report.when != "call" and report.outcome == "passed":
        return
    why = ""
    if report.skipped and isinstance(report.longrepr, tuple | list):
        why = report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        why = report.longreprtext.strip().splitlines()[-1] if report.longreprtext else ""
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message.splitlines()[0] if crash else why
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration, "why": why[:300]}
    if report.failed:
        line["details"] = report.longreprtext[-4000:]
    with Path(os.environ["OUTCOMES"]).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
