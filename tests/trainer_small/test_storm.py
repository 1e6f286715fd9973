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

from trainer_small.config import RunSpec
from trainer_small.sweep import Sweep
from trainer_small.sweep_run import run_sweep
from trainer_small.sweep_status import sweep_table

_KILLS = 8


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


@pytest.mark.slow
def test_a_storm_of_kills_changes_nothing(corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]) -> None:
    tokenizer = os.path.relpath(corpus / "tokenizer.json", tmp_path)
    runs = tuple(
        run_spec(f"run{index}", seed=index, training={"tokens": 128 * 1200}, checkpoint_seconds=0.3)
        for index in range(6)
    )
    sweep = Sweep(name="storm", corpus=os.path.relpath(corpus, tmp_path), tokenizers={512: tokenizer}, runs=runs)
    file = tmp_path / "sweep.yaml"
    sweep.save(file)
    quiet, stormy = tmp_path / "quiet", tmp_path / "stormy"
    run_sweep(file, quiet, workers=2)
    launch = [
        sys.executable,
        "-c",
        f"from trainer_small.sweep_run import run_sweep; run_sweep({str(file)!r}, {str(stormy)!r}, workers=2)",
    ]
    randomness = random.Random(0)
    kills = 0
    launcher = subprocess.Popen(launch, start_new_session=True)
    sessions = [launcher.pid]
    while kills < _KILLS:
        time.sleep(randomness.uniform(0.5, 4.0))
        if launcher.poll() is not None:  # the sweep is done, and so is the storm
            break
        victims = _descendants(launcher.pid)
        if not victims:  # it ended between the two looks
            break
        victim = launcher.pid if randomness.random() < 0.3 else randomness.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        kills += 1
        if victim == launcher.pid:
            launcher.wait()
            launcher = subprocess.Popen(launch, start_new_session=True)
            sessions.append(launcher.pid)
    launcher.wait(600)
    assert run_sweep(file, stormy, workers=2).complete
    timing = ["wall_seconds", "tokens_per_second"]
    first, second = (sweep_table(out).drop(columns=timing) for out in (quiet, stormy))
    assert first.equals(second)
    assert kills >= 3
    assert not [process for session in sessions for process in _descendants(session)]
