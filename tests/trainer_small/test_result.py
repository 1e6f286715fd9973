"""What a run leaves behind besides its loss: counts, curve, speed, health, provenance, warnings, other writers."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fits.errors import UserError
from tests.places import ROOT
from trainer_small.model.gemm import gemm_flops_per_second
from trainer_small.result import read_result
from trainer_small.runs.checkpoint_files import checkpoints
from trainer_small.runs.metrics import append_metrics, read_metrics
from trainer_small.runs.run import run_one
from trainer_small.runs.run_loop import RunProgress
from trainer_small.runs.run_warnings import fresh_tokens

RunFolder = Callable[..., Path]
SameRun = Callable[[Path, Path], None]


def test_a_result_has_what_a_sceptic_asks(run_folder: RunFolder) -> None:
    evaluation = {"validation_bytes": 4000, "earlier_points": 3}
    seen: list[RunProgress] = []
    result = run_one(
        run_folder(training={"tokens": 128 * 80, "grad_clip": 0.5}, evaluation=evaluation, peak_flops=1e12),
        on_progress=seen.append,
    )
    assert result.losses and result.speed and result.health and result.machine and result.counts
    assert [point.step for point in result.evaluations] == [10, 20, 40, 80]
    assert result.evaluations[-1].loss == result.losses.loss
    assert result.evaluations[-1].tokens == result.counts.tokens
    speed = result.speed
    assert speed.wall_seconds == pytest.approx(speed.train_seconds + speed.evaluation_seconds)
    assert 0 < speed.device_seconds < 2 * speed.train_seconds + 0.1
    assert speed.achieved_flops_per_second == pytest.approx(result.counts.train_flops / speed.train_seconds)
    assert speed.mfu == pytest.approx(speed.achieved_flops_per_second / speed.gemm_flops_per_second)
    assert speed.mfu_data_sheet == pytest.approx(speed.achieved_flops_per_second / 1e12)
    norms = np.array([line["gradient_norm"] for line in read_metrics_of(result.run_id, run_folder)])
    assert result.health.clipped_steps == (norms > 0.5).sum() > 0
    assert result.health.gradient_norm_last == pytest.approx(norms[-8:].mean())
    assert result.machine.torch == torch.__version__ and result.machine.numpy == np.__version__
    if (ROOT / ".git").exists():
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert result.machine.git is not None and result.machine.git.commit == commit.stdout.strip()
    for at in seen:
        assert at.seconds_left >= 0 and at.step <= 80


def read_metrics_of(run_id: str, run_folder: RunFolder) -> list[dict[str, Any]]:
    """Training lines of a run that ``run_folder`` has laid out."""
    folder = run_folder("other").parent / run_id
    return [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_the_product_is_measured_once_for_a_setting() -> None:
    first = gemm_flops_per_second(torch.device("cpu"), torch.float32, 1, "highest")
    assert 1e8 < first < 1e14
    assert gemm_flops_per_second(torch.device("cpu"), torch.float32, 1, "highest") == first


def test_repeated_text_and_long_windows_are_said(run_folder: RunFolder) -> None:
    repeated = run_one(run_folder("repeated", training={"tokens": 100_000, "batch_tokens": 8192}))
    assert repeated.counts and repeated.counts.epochs > 1
    (warning,) = repeated.warnings
    assert f"{repeated.counts.epochs:.2f} epochs" in warning and "2305.16264" in warning
    long = run_one(run_folder("long", training={"tokens": 4096, "batch_tokens": 2048, "sequence_length": 2048}))
    assert "sequence_length 2048 is longer than any document" in long.warnings[0]
    assert run_one(run_folder("short")).warnings == ()


def test_repeats_are_worth_less_and_less() -> None:
    assert fresh_tokens(100, 100) == fresh_tokens(100, 200) == 100
    assert fresh_tokens(400, 100) == pytest.approx(100 + 100 * 15.387756 * (1 - np.exp(-3 / 15.387756)))
    assert fresh_tokens(1e9, 100) < 100 * 17


def test_tensorboard_gets_every_line_once(run_folder: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = run_folder(log_to=["tensorboard"])
    count = iter(range(100))
    run_one(folder, stop=lambda: next(count) == 10)
    run_one(folder)
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    losses = {line["step"]: line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line}
    written = {event.step: event.value for event in events.Scalars("loss")}
    assert written.keys() == losses.keys() and len(events.Scalars("loss")) == 30
    assert all(written[step] == pytest.approx(losses[step]) for step in losses)
    assert events.Scalars("validation_loss")[-1].step == 30


def test_trackio_gets_the_run(run_folder: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    folder = run_folder(log_to=["trackio"])
    code = (
        f"import torch; torch.set_num_threads(1); from trainer_small import run_one; run_one({str(folder)!r}); "
        f"from trackio.sqlite_storage import SQLiteStorage as S; logs = S.get_logs({folder.parent.name!r}, 'run'); "
        "print(len([line for line in logs if 'loss' in line]), max(line['step'] for line in logs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["30", "30"]


def test_a_writer_that_is_not_installed_is_named(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log_to 'wandb' needs .* pip install 'moe-scaling\[wandb\]'"):
        run_one(run_folder(log_to=["wandb"]))


def test_writers_do_not_change_the_run(run_folder: RunFolder, same_run: SameRun) -> None:
    pytest.importorskip("tensorboard")
    with_writer, without = run_folder("with", log_to=["tensorboard"]), run_folder("without")
    run_one(with_writer)
    run_one(without)
    same_run(with_writer, without)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_nothing(run_folder: RunFolder, same_run: SameRun) -> None:
    """The system itself refuses to write more, as it does when a quota or a disk is full."""
    whole, folder = run_folder("whole"), run_folder()
    run_one(whole)
    count = iter(range(100))
    run_one(folder, stop=lambda: next(count) == 5)
    kept = checkpoints(folder, "checkpoint")
    size = kept[0].stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    command = [sys.executable, "-c", "import sys; from scaling.cli import app; app()", "sweep", "run-one", str(folder)]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the checkpoint of step 30 cannot be written" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert checkpoints(folder, "checkpoint") == kept and not list(folder.glob(".checkpoint*"))
    failed = read_result(folder)
    assert failed is not None and failed.status == "failed"
    assert run_one(folder).status == "done"
    same_run(whole, folder)


def test_half_a_line_is_an_error_not_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"step": 1, "loss": 3.0})
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
    with pytest.raises(OSError, match="No space left"):
        append_metrics(path, {"step": 2, "loss": 2.0})
    assert read_metrics(path) == [{"step": 1, "loss": 3.0}]


def test_a_checkpoint_of_another_architecture_is_named(run_folder: RunFolder) -> None:
    folder = run_folder()
    count = iter(range(100))
    run_one(folder, stop=lambda: next(count) == 5)
    run_folder(architecture={"num_experts": 8})
    with pytest.raises(UserError, match=r"its architecture\.num_experts is 4, that of config\.yaml 8"):
        run_one(folder)


@pytest.mark.slow
def test_compiled_with_two_threads_a_stopped_run_ends_with_the_same_bits(
    run_folder: RunFolder, same_run: SameRun
) -> None:
    whole, parts = run_folder("whole", compile=True), run_folder("parts", compile=True)
    code = (
        "import sys, torch; torch.set_num_threads(2); from trainer_small.runs.run import run_one; "
        "count = iter(range(100)); run_one(sys.argv[1], stop=lambda: next(count) == int(sys.argv[2]))"
    )
    for folder, stop in ((whole, -1), (parts, 12), (parts, -1)):
        subprocess.run([sys.executable, "-c", code, str(folder), str(stop)], check=True)
    same_run(whole, parts)
    result = read_result(whole)
    assert result is not None and result.machine is not None
    assert result.machine.threads == 2 and result.machine.deterministic
