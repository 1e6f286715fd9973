"""The lock of a run: one holder on this machine and across machines, through kills, sleeping holders and reused ids."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer_small.runs import lock
from trainer_small.runs.lock import Busy, is_locked, locked


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    lock._seen.clear()


def _other_machine(patch: pytest.MonkeyPatch, name: str = "another") -> None:
    """This process stands on another machine from here on, and the file system's kernel lock does not reach there."""
    patch.setattr(lock, "_kernel", lambda: name)
    patch.setattr(lock, "_kernel_lock", lambda *_: None)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(Busy), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)
    with locked(tmp_path, wait=True):
        assert is_locked(tmp_path)


def test_a_killed_holder_of_this_machine_lets_go_at_once(tmp_path: Path) -> None:
    code = (
        "from trainer_small.runs.lock import locked; from pathlib import Path; import time\n"
        f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    assert is_locked(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_another_machine_waits_until_a_claim_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    lock._make_claim(tmp_path, 1)
    with monkeypatch.context() as patch:
        _other_machine(patch)
        assert is_locked(tmp_path)
        now[0] += lock.STALE_SECONDS - 1
        assert is_locked(tmp_path)
        lock.write_text(lock._path(tmp_path, 1), lock._text("here", 1, False))  # the holder shows that it lives
        now[0] += 2
        with pytest.raises(Busy), locked(tmp_path):
            pass
        now[0] += lock.STALE_SECONDS + 1
        assert not is_locked(tmp_path)
        with locked(tmp_path) as taken:
            assert is_locked(tmp_path) and not taken.lost
            assert lock._exists(tmp_path, 2)


def test_wall_clocks_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock._make_claim(tmp_path, 1)
    for jump in (-(10**9), 10**9):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
        os.utime(lock._path(tmp_path, 1), (0, 0) if jump < 0 else (4e9, 4e9))
        with monkeypatch.context() as patch:
            _other_machine(patch)
            assert is_locked(tmp_path)


def test_a_holder_that_slept_finds_that_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with locked(tmp_path) as slept:
        lock._make_claim(tmp_path, 2)  # another machine has taken it for dead
        end = time.monotonic() + 5
        while not slept.lost:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert lock._latest(tmp_path).number == 2 and not lock._latest(tmp_path).free  # type: ignore[union-attr]


def test_a_claim_without_content_is_taken_over_once_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".claim-7").write_text("")
    assert is_locked(tmp_path)
    now = time.monotonic()
    monkeypatch.setattr(lock.time, "monotonic", lambda: now + lock.STALE_SECONDS + 1)
    with locked(tmp_path):
        assert sorted(lock._numbers(tmp_path)) == [7, 8]


def _count(folder: Path, times: int, machine: str) -> None:
    """Add one to a counter, by reading and writing it apart: two at a time would lose some."""
    lock._kernel = lambda: machine  # type: ignore[assignment]
    lock._kernel_lock = lambda *_: None  # type: ignore[assignment]
    for _ in range(times):
        with locked(folder, wait=True):
            value = int((folder / "counter").read_text())
            time.sleep(0.001)
            (folder / "counter").write_text(str(value + 1))


def test_machines_without_a_common_kernel_lock_never_hold_it_together(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    machines = [context.Process(target=_count, args=(tmp_path, 15, f"m{index}")) for index in range(4)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(60)
        assert machine.exitcode == 0
    assert (tmp_path / "counter").read_text() == "60"


def test_a_file_system_without_kernel_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(Busy), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
