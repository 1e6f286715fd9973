"""How sweeps, their runs and their cost are shown."""

import time
from typing import TYPE_CHECKING, Any

from fits.numbers import count, quantity
from scaling.commands.console import is_terminal, make_table, note, print_json, print_renderable, print_table, say

if TYPE_CHECKING:
    from rich.table import Table

    from trainer_small.engines.sweep_run import SweepProgress
    from trainer_small.result import Result
    from trainer_small.runs.run_loop import RunProgress
    from trainer_small.sweeps.sweep_status import SweepStatus

_LINE_SECONDS = 60.0
"""In a log, where there is no bar, a line this often."""
_ORDER = ("running", "failed", "diverged", "queued", "done")
"""What someone who watches wants to see first."""
_ROOM = 200
"""Rows of a table; more take longer to print than to find, and nobody reads them."""


class SweepWatch:
    """Shows a sweep on a terminal as bars, in a log as a line a minute."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks, self._last_line = bar, {}, time.monotonic()

    def prepare(self, vocab_size: int, done: int) -> None:
        task = f"tokenizing with vocabulary {vocab_size}, bytes"
        if task not in self._tasks:
            self._tasks[task] = self._bar.add_task(task, total=None)
        self._bar.update(self._tasks[task], completed=done)

    def train(self, at: "SweepProgress") -> None:
        share = at.cost_done / at.cost
        if "runs" not in self._tasks:
            self._tasks["runs"] = self._bar.add_task("runs", total=at.runs)
        running = ", ".join(f"{name} {run.loss:.2f}" for name, run in at.running.items() if run.loss is not None)
        # The bar moves by work, not by runs, so that its time left is right when runs differ in length.
        self._bar.update(self._tasks["runs"], completed=at.runs * share, description=f"runs ({running})")
        event = at.event
        if event is not None and event.status in ("failed", "diverged", "lost"):
            note(f"{event.run_id} {event.status}: {event.reason}")
        if not is_terminal() and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            left = f", about {duration(at.seconds_left)} left" if at.seconds_left is not None else ""
            note(f"{at.finished} of {at.runs} runs, {share:.0%} of the work{left}; {running}")

    def one(self, at: "RunProgress") -> None:
        if "one" not in self._tasks:
            self._tasks["one"] = self._bar.add_task(at.run_id, total=at.steps)
        text = f"{at.run_id} loss {at.loss:.3f} {count(at.tokens_per_second)} tokens/s"
        self._bar.update(self._tasks["one"], description=text, completed=at.step)
        if not is_terminal() and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            note(f"{text}, step {at.step} of {at.steps}, about {duration(at.seconds_left)} left")


def print_status(status: "SweepStatus", as_json: bool, *, all_runs: bool, room: int = _ROOM) -> None:
    if as_json:
        print_json({"counts": status.count(), "runs": [each.to_dict() for each in status.runs]})
        return
    if all_runs or any(each.status not in ("done", "queued") for each in status.runs):
        print_renderable(status_table(status, all_runs=all_runs, room=room))
    if all_runs and len(status.runs) > room:
        say(f"{len(status.runs) - room} more runs are not shown; --all shows them")
    say(in_words(status))


def in_words(status: "SweepStatus") -> str:
    """5 running, 2 failed, 120 done."""
    return ", ".join(f"{number} {name}" for name, number in status.count().items())


def status_table(status: "SweepStatus", *, all_runs: bool = True, room: int = _ROOM, title: str = "") -> "Table":
    """One row a run; where there is ``room`` for fewer, those that want to be looked at come first."""
    shown = [each for each in status.runs if all_runs or each.status not in ("done", "queued")]
    if len(shown) > room:
        shown = sorted(shown, key=lambda each: _ORDER.index(each.status) if each.status in _ORDER else 0)[:room]
    rows = [
        (
            each.run_id,
            each.status,
            each.step if each.steps is None else f"{each.step}/{each.steps}",
            "" if each.loss is None else quantity(each.loss),
            "" if each.tokens_per_second is None else count(round(each.tokens_per_second)),
            "" if each.seconds_left is None else duration(each.seconds_left),
            (f"[{each.attempts} tries before] " if each.attempts else "") + (each.reason or ""),
        )
        for each in shown
    ]
    return make_table(["run", "status", "step", "loss", "tok/s", "left", "note"], rows, title=title)


def print_result(result: "Result", as_json: bool) -> None:
    for warning in result.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    rows = [("status", result.status), ("steps", f"{result.step} of {result.steps}")]
    if result.reason:
        rows.append(("reason", result.reason))
    if result.losses:
        rows.append(("loss (nats/token)", quantity(result.losses.loss)))
        rows.append(("bits per byte", quantity(result.losses.bits_per_byte)))
    if result.speed:
        rows.append(("tokens/s", quantity(result.speed.tokens_per_second)))
        rows.append(("of a large product's FLOP/s", f"{result.speed.mfu:.0%}"))
    print_table(["", result.run_id], rows)
    for warning in result.warnings:
        note(f"warning: {warning}")


def duration(seconds: float) -> str:
    """A time for reading: 45 s, 12 min, 3.5 h, 12 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def size(number: float) -> str:
    """Bytes for reading, in powers of 1024."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1024:.3g} KiB"
