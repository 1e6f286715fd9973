"""A storm: workers and the launcher itself are killed again and again, and the table is that of a quiet sweep."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer_small.engines.sweep_run import run_sweep
from trainer_small.sweeps.sweep_status import sweep_table

_RUNS, _RUNS_A_KILL, _FEWEST_KILLS = 200, 3, 50


def _descendants(root: int) -> list[int]:
    """Processes of the launcher's session: itself and its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == root and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def _litter(out: Path, randomness: random.Random) -> None:
    """What a process that dies in the middle of a write leaves behind."""
    directory = randomness.choice(sorted(path.parent for path in out.glob("*/config.yaml")))
    if not (directory / "result.json").exists():
        (directory / ".checkpoint.half").write_bytes(b"PK\x03\x04")
        (directory / ".result.json.half").write_text('{"run_id": ')
        with (directory / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 3, "lo')


@pytest.mark.slow
def test_a_storm_of_kills_changes_nothing(sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    file = sweep_file(_RUNS, training={"tokens": 128 * 30}, checkpoint_seconds=0.05)
    quiet, stormy = tmp_path / "quiet", tmp_path / "stormy"
    run_sweep(file, quiet, workers=2)
    launch = [
        sys.executable,
        "-c",
        f"from trainer_small.engines.sweep_run import run_sweep; run_sweep({str(file)!r}, {str(stormy)!r}, workers=2)",
    ]
    randomness, kills, next_kill = random.Random(0), 0, 1
    launcher = subprocess.Popen(launch, start_new_session=True)
    sessions = [launcher.pid]
    deadline = time.monotonic() + 1200
    while launcher.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        done = len(list(stormy.glob("*/result.json")))
        if done < next_kill:  # the sweep always gets a little further between two kills
            continue
        next_kill = done + _RUNS_A_KILL
        time.sleep(randomness.uniform(0, 0.3))
        victims = _descendants(launcher.pid)
        if not victims:  # it ended between the two looks
            break
        victim = launcher.pid if randomness.random() < 0.15 else randomness.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            kills += 1
        _litter(stormy, randomness)
        if victim == launcher.pid:
            launcher.wait()
            launcher = subprocess.Popen(launch, start_new_session=True)
            sessions.append(launcher.pid)
    launcher.wait(600)
    status = run_sweep(file, stormy, workers=2)
    assert status.complete, [run for run in status.runs if run.status != "done"]
    timing = ["wall_seconds", "tokens_per_second"]
    first, second = (sweep_table(out).drop(columns=timing) for out in (quiet, stormy))
    assert first.equals(second)
    assert kills >= _FEWEST_KILLS and len(sessions) > 3
    assert not [process for session in sessions for process in _descendants(session)]
