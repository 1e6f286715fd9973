"""Sweeps on a real Slurm with two nodes: arrays, preemption, a launcher that dies, the script for sbatch."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.trainer_small.engines.slurm_cluster import SlurmCluster, skip_without_slurm
from trainer_small.engines.choice import EngineChoice
from trainer_small.engines.engine import Resources
from trainer_small.engines.slurm import array_limit, queued_jobs
from trainer_small.engines.sweep_run import run_sweep, write_sbatch_script
from trainer_small.sweeps.sweep_status import sweep_status, sweep_table

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
MakeSweep = Callable[..., Path]
TIMING = ["wall_seconds", "tokens_per_second"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    skip_without_slurm()
    pytest.importorskip("submitit")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _choice(**settings: object) -> EngineChoice:
    return EngineChoice(name="slurm", resources=Resources(gpus=0), **settings)  # type: ignore[arg-type]


def test_an_array_is_preempted_and_its_launcher_killed_and_the_table_is_that_of_a_quiet_sweep(
    slurm: SlurmCluster, sweep_file: MakeSweep, tmp_path: Path
) -> None:
    file = sweep_file(5, training={"tokens": 128 * 500}, checkpoint_seconds=0.5)
    quiet, out = tmp_path / "quiet", tmp_path / "runs"
    run_sweep(file, quiet)
    assert array_limit() == 4  # fewer than the runs: the array is cut
    code = (
        "from trainer_small.engines.choice import EngineChoice; from trainer_small.engines.engine import Resources;"
        "from trainer_small.engines.sweep_run import run_sweep;"
        f"run_sweep({str(file)!r}, {str(out)!r}, engine=EngineChoice(name='slurm', resources=Resources(gpus=0)))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    _until(lambda: len(list(out.glob("*/checkpoint-*.pt"))) > 0)
    launcher.kill()
    launcher.wait()
    before = queued_jobs()
    assert before  # the jobs outlive their launcher
    _preempt(slurm, tmp_path)
    assert list(out.glob("*/checkpoint-*.pt")) and not sweep_status(out).complete
    with _held_jobs_released(slurm):
        status = run_sweep(file, out, engine=_choice())
    assert status.complete
    first, second = (sweep_table(each).drop(columns=TIMING) for each in (quiet, out))
    assert first.equals(second)
    submitted = (out / "slurm" / "submitted.jsonl").read_text().splitlines()
    assert len(submitted) < 2 * 5  # the second launcher found the first one's jobs


def test_the_script_for_sbatch_trains_the_sweep_through_a_preemption(
    slurm: SlurmCluster, sweep_file: MakeSweep, tmp_path: Path
) -> None:
    file, out = sweep_file(5, training={"tokens": 128 * 300}, checkpoint_seconds=60.0), tmp_path / "runs"
    choice = EngineChoice(name="sbatch", resources=Resources(gpus=0), max_parallel=4)
    script = write_sbatch_script(file, out, choice)
    assert script is not None and sweep_status(out).count() == {"queued": 5}
    assert "Submitted" in slurm.call("sbatch", str(script))
    _until(lambda: len(list(out.glob("*/metrics.jsonl"))) > 0)
    _preempt(slurm, tmp_path)
    assert list(out.glob("*/checkpoint-*.pt"))  # written on the warning alone
    with _held_jobs_released(slurm):
        _until(lambda: sweep_status(out).complete)
    assert write_sbatch_script(file, out, choice) is None


def _preempt(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Jobs of the upper partition take both nodes for three seconds."""
    wrap = f"touch {tmp_path}/preempted-$SLURM_ARRAY_TASK_ID; sleep 3"
    slurm.call("sbatch", "--partition=high", "--array=0-1", "--output=/dev/null", "--wrap", wrap)
    _until(lambda: len(list(tmp_path.glob("preempted-*"))) == 2)


@contextmanager
def _held_jobs_released(slurm: SlurmCluster) -> Iterator[None]:
    """Slurm holds a requeued job back for two minutes: not in a test."""
    over = threading.Event()

    def release() -> None:
        while not over.wait(2):
            for job in queued_jobs() or ():
                slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    releaser = threading.Thread(target=release)
    releaser.start()
    try:
        yield
    finally:
        over.set()
        releaser.join()


def _until(met: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.2)
