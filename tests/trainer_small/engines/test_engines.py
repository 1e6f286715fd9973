"""Engines without a cluster: the command they start, devices, jobs that get lost, the script for sbatch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fits.errors import UserError
from trainer_small.config import ParallelConfig, RunConfig, RunSpec
from trainer_small.engines.choice import EngineChoice
from trainer_small.engines.command import run_command
from trainer_small.engines.devices import local_slots, visible_gpus
from trainer_small.engines.engine import MOST_DEATHS, Resources, Task
from trainer_small.engines.jobs import train_by_jobs
from trainer_small.engines.run_process import run_in_process, run_many
from trainer_small.engines.sbatch import MOST_ELEMENTS, write_script
from trainer_small.engines.sweep_run import lay_out, run_sweep
from trainer_small.result import is_final, read_result
from trainer_small.runs.lock import locked
from trainer_small.runs.run import run_one
from trainer_small.sweeps.sweep import Sweep, run_config


def test_lost_jobs_are_submitted_again_and_not_more_than_there_is_room_for(
    scheduler: Any, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    scheduler.lose, heard = 2, list[str]()
    status = run_sweep(sweep_file(4), tmp_path / "runs", progress=lambda at: heard.append(at.event.status))  # type: ignore[union-attr]
    assert status.complete and len(scheduler.submitted) == 6
    assert heard.count("lost") == 2 and heard.count("done") == 4


def test_a_run_that_is_lost_again_and_again_is_failed(
    scheduler: Any, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    scheduler.lose = MOST_DEATHS
    file, out = sweep_file(1), tmp_path / "runs"
    assert run_sweep(file, out).count() == {"failed": 1} and len(scheduler.submitted) == MOST_DEATHS
    assert "look there." in str(read_result(out / "run0").reason)  # type: ignore[union-attr]
    assert run_sweep(file, out).complete


def test_jobs_of_an_earlier_launcher_are_not_submitted_again(
    scheduler: Any, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, out = sweep_file(3), tmp_path / "runs"
    _, runs = lay_out(file, out)
    tasks = [Task.of(out / run.run_id, run) for run in runs]
    scheduler.jobs["earlier"] = tasks[:2]
    assert train_by_jobs(scheduler, tasks, lambda _: None, known={"earlier": tasks[:2]}, advice="")
    assert scheduler.submitted == [[tasks[2].run_id]]


def test_the_command_is_one_for_all(tmp_path: Path) -> None:
    one = run_command([tmp_path], Resources(threads=2))
    assert one[1:] == ["-m", "scaling", "sweep", "run-one", str(tmp_path), "--threads", "2", "--wait"]
    assert "--at-once" in run_command([tmp_path, tmp_path], Resources(per_gpu=2))
    several = run_command([tmp_path], Resources(gpus=4))
    assert several[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    with pytest.raises(UserError, match="cannot share"):
        Resources(gpus=2, per_gpu=2)


def test_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert visible_gpus() == ["4", "5", "7"]
    assert local_slots(None, Resources(), on_gpu=True) == ["4", "5", "7"]
    assert local_slots(None, Resources(per_gpu=2), on_gpu=True) == ["4", "5", "7"] * 2
    assert local_slots(2, Resources(per_gpu=2), on_gpu=True) == ["4", "5"]
    assert local_slots(None, Resources(gpus=2), on_gpu=True) == ["4,5"]
    assert local_slots(3, Resources(), on_gpu=False) == [None] * 3
    assert local_slots(3, Resources(gpus=0), on_gpu=True) == [""] * 3
    with pytest.raises(UserError, match="4 GPUs"):
        local_slots(None, Resources(gpus=4), on_gpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.slow
def test_a_worker_sees_its_own_device_only(
    sweep_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    seen: set[str] = set()

    def hear(_: object) -> None:
        for pid in subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split():
            for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if pair.startswith(b"CUDA_VISIBLE_DEVICES="):
                    seen.add(pair.decode().partition("=")[2])

    # On "auto" a run takes a device if torch finds one behind the name; there is none, so it trains on the CPU.
    file = sweep_file(2, device="auto", training={"tokens": 128 * 150})
    assert run_sweep(file, tmp_path / "runs", progress=hear).complete
    assert {"3", "5"} <= seen


@pytest.mark.slow
def test_a_run_of_two_devices_is_started_by_torchrun(sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    choice = EngineChoice(resources=Resources(gpus=2), workers=1)  # without GPUs: two processes, by gloo
    out = tmp_path / "runs"
    assert run_sweep(sweep_file(1, parallel={"expert_parallel": 2}), out, engine=choice).complete
    alone = run_one(_copy(out / "run0", tmp_path / "alone" / "run0"))
    result = read_result(out / "run0")
    assert result is not None and result.losses is not None and alone.losses is not None
    assert result.losses.loss == pytest.approx(alone.losses.loss, rel=1e-4)


def _copy(run: Path, there: Path) -> Path:
    """The run's config in a new folder, alone in its processes, on the same tokens."""
    config = RunConfig.load(run / "config.yaml")
    config.model_copy(update={"parallel": ParallelConfig()}).save(there / "config.yaml")
    (there.parent / "tokens").symlink_to(run.parent / "tokens")
    return there


def test_the_script_gives_every_run_to_one_element(tmp_path: Path) -> None:
    runs = [tmp_path / f"run {index}" for index in range(MOST_ELEMENTS + 7)]
    options = {"partition": "gpu", "time": "4:00:00"}
    script = write_script(tmp_path, runs, Resources(threads=2), max_parallel=8, options=options, python="python")
    text = script.read_text()
    assert f"#SBATCH --array=0-{MOST_ELEMENTS - 1}%8" in text and "#SBATCH --partition=gpu" in text
    assert "#SBATCH --cpus-per-task=2" in text and "#SBATCH --gpus-per-node=1" in text
    # A python that writes down what it is told to train stands for the real one.
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/bash\nfor each in "$@"; do [[ $each == /* ]] && echo "$each" >> "{tmp_path}/told"; done; exit 0\n'
    )
    fake.chmod(0o755)
    for element in (0, 6, 7, MOST_ELEMENTS - 1):
        environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(element)}
        subprocess.run(["bash", str(script)], env=environment, check=True)
    told = (tmp_path / "told").read_text().splitlines()
    wanted = [0, MOST_ELEMENTS, 6, MOST_ELEMENTS + 6, 7, MOST_ELEMENTS - 1]
    assert told == [str(runs[index]) for index in wanted]


@pytest.mark.slow
def test_run_one_takes_several_folders_and_waits(sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    lay_out(sweep_file(2), out)
    folders = [out / "run0", out / "run1"]
    assert run_many(folders, at_once=2).complete and all(map(is_final, folders))
    with locked(folders[0]), pytest.raises(UserError, match="another process"):
        run_in_process(folders[0])
    assert run_in_process(folders[0], wait=True).status == "done"


def test_engines_that_lack_something_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'slurm'"):
        EngineChoice(name="slrum")
    with pytest.raises(UserError, match="workers is 0"):
        EngineChoice(workers=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"sbatch is not here|submitit is not installed"):
        EngineChoice(name="slurm").engine(tmp_path, 1, on_gpu=False)
    with pytest.raises(UserError, match=r"moe-scaling\[ray\]"):
        EngineChoice(name="ray").engine(tmp_path, 1, on_gpu=False)


def test_a_sweep_names_a_trunk_that_is_not_there(corpus: Path, run_spec: Callable[..., RunSpec]) -> None:
    del corpus
    recipe = {"tokens": 128 * 60, "warmup_tokens": 256}
    spec = run_spec("a", training=recipe).model_dump(mode="json")
    data = {"name": "s", "corpus": "c", "tokenizers": {512: "t"}}
    branch = spec | {"trunk": {"run_id": "b", "tokens": 128 * 16}}
    with pytest.raises(UserError, match="no run of the sweep"):
        Sweep.parse(data | {"runs": [branch]}, "sweep.yaml")
    with pytest.raises(UserError, match="saved_at"):
        Sweep.parse(data | {"runs": [branch, spec | {"run_id": "b"}]}, "sweep.yaml")
    assert run_config(RunSpec.parse(branch, "run")).trunk is not None
