"""One run: it learns, it can be stopped, killed and damaged at any point, and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fits.errors import UserError
from trainer_small.result import Result, read_result
from trainer_small.runs.checkpoint import load_checkpoint, save_checkpoint
from trainer_small.runs.lock import locked
from trainer_small.runs.metrics import read_metrics
from trainer_small.runs.run import RunBusy, run_one
from trainer_small.steps.training import find_spikes

RunFolder = Callable[..., Path]
SameRun = Callable[[Path, Path], None]
CPU = torch.device("cpu")


def _stop_after(steps: int) -> Callable[[], bool]:
    count = iter(range(10**9))
    return lambda: next(count) >= steps - 1


def test_a_run_learns_and_says_everything(run_folder: RunFolder) -> None:
    folder = run_folder(training={"tokens": 128 * 120}, evaluation={"validation_bytes": 4000, "earlier_points": 2})
    result = run_one(folder)
    assert result.status == "done" and result.step == result.steps == 120
    assert result.losses and result.counts and result.speed and result.router and result.health and result.machine
    assert result.losses.loss < np.log(400) - 1
    assert 0 < result.losses.loss_standard_error < 0.5
    nats = result.losses.loss * result.losses.validation_tokens
    assert result.losses.bits_per_byte == pytest.approx(nats / np.log(2) / result.losses.validation_bytes)
    assert result.losses.validation_bytes >= 4000
    groups = result.losses.groups.values()
    assert sum(group.validation_bytes for group in groups) == result.losses.validation_bytes
    bits = sum(group.bits_per_byte * group.validation_bytes for group in groups)
    assert bits / result.losses.validation_bytes == pytest.approx(result.losses.bits_per_byte)
    assert result.losses.loss < result.losses.unigram_loss
    assert result.counts.tokens == 128 * 120
    assert result.counts.train_flops == result.counts.flops_per_token * result.counts.tokens
    assert 0 < result.router.entropy <= 1
    assert result.machine.threads == 1
    evaluated = [record["step"] for record in read_metrics(folder / "metrics.jsonl") if "validation_loss" in record]
    assert evaluated == [30, 60, 120]
    written = Result.load(folder / "result.json")
    assert written == result == run_one(folder)


def test_the_seed_decides_everything(run_folder: RunFolder, same_run: SameRun) -> None:
    folders = run_folder("a"), run_folder("b"), run_folder("c", seed=1)
    results = [run_one(folder) for folder in folders]
    same_run(folders[0], folders[1])
    assert results[0].losses != results[2].losses


@pytest.mark.parametrize("balancing", ["bias", "auxiliary_loss"])
def test_stopped_runs_end_with_the_same_bits(run_folder: RunFolder, balancing: str, same_run: SameRun) -> None:
    training = {"balancing": balancing, "router_z_loss": 1e-3}
    whole, parts = run_folder("whole", training=training), run_folder("parts", training=training)
    run_one(whole)
    for steps in (1, 7, 12):
        assert run_one(parts, stop=_stop_after(steps)).status == "interrupted"
        assert not (parts / "result.json").exists()
    assert run_one(parts).status == "done"
    same_run(whole, parts)


def test_micro_batches_change_memory_not_the_result(run_folder: RunFolder) -> None:
    whole, parts = run_folder("whole"), run_folder("parts", training={"micro_batch_tokens": 32})
    first, second = run_one(whole).losses, run_one(parts).losses
    assert first and second and first.loss == pytest.approx(second.loss, rel=1e-3)


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(run_folder: RunFolder, same_run: SameRun) -> None:
    training = {"tokens": 128 * 250}
    quiet = run_folder("quiet", training=training, checkpoint_seconds=0.05)
    stormy = run_folder("stormy", training=training, checkpoint_seconds=0.05)
    run_one(quiet)
    code = f"import torch; torch.set_num_threads(1); from trainer_small import run_one; run_one({str(stormy)!r})"
    kills = 0
    for delay in (0.0, 0.2):
        process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
        before = len(read_metrics(stormy / "metrics.jsonl"))
        while process.poll() is None and len(read_metrics(stormy / "metrics.jsonl")) <= before:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills
    run_one(stormy)
    same_run(quiet, stormy)


def test_killed_before_the_last_word_a_run_says_it_again(run_folder: RunFolder, same_run: SameRun) -> None:
    whole, cut = run_folder("whole"), run_folder("cut")
    run_one(whole)
    run_one(cut)
    (cut / "result.json").unlink()  # its last checkpoint and all of its metrics are there
    assert run_one(cut).status == "done"
    same_run(whole, cut)
    steps = [[line["step"] for line in read_metrics(folder / "metrics.jsonl")] for folder in (whole, cut)]
    assert steps[0] == steps[1]


def test_a_damaged_checkpoint_is_passed_over(run_folder: RunFolder, same_run: SameRun) -> None:
    whole, damaged = run_folder("whole"), run_folder("damaged")
    run_one(whole)
    run_one(damaged, stop=_stop_after(5))
    run_one(damaged, stop=_stop_after(5))
    checkpoints = sorted(damaged.glob("checkpoint-*.pt"))
    assert len(checkpoints) == 2
    content = bytearray(checkpoints[-1].read_bytes())
    content[len(content) // 2] ^= 1
    checkpoints[-1].write_bytes(content)
    with (damaged / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 11, "lo')  # a torn line
    state = load_checkpoint(damaged, CPU)
    assert state is not None and state["step"] == 5
    run_one(damaged)
    same_run(whole, damaged)


def test_a_full_disk_is_said_and_costs_nothing(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch, same_run: SameRun
) -> None:
    whole, folder = run_folder("whole"), run_folder()
    run_one(whole)
    run_one(folder, stop=_stop_after(10))
    kept = list(folder.glob("checkpoint-*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        with pytest.raises(UserError, match="No space left"):
            run_one(folder)
    failed = read_result(folder)
    assert failed is not None and failed.status == "failed" and "No space left" in (failed.reason or "")
    assert list(folder.glob("checkpoint-*")) == kept and not list(folder.glob(".checkpoint*"))
    assert run_one(folder).status == "done"
    same_run(whole, folder)


def test_a_run_that_diverges_says_when_and_why(run_folder: RunFolder) -> None:
    result = run_one(run_folder("nan", training={"learning_rate": 1e30, "grad_clip": 0}))
    assert result.status == "diverged" and result.step < 30 and "nan" in (result.reason or "")
    assert result.losses is None
    high = run_folder("high", training={"learning_rate": 3.0, "tokens": 128 * 60, "warmup_fraction": 0})
    result = run_one(high)
    assert result.status == "diverged" and "above its start" in (result.reason or "")
    assert run_one(high) == result


def test_spikes_are_found() -> None:
    losses = list(3 + 0.01 * np.random.default_rng(0).standard_normal(300))
    assert find_spikes(losses) == []
    losses[200] = 4.0
    assert find_spikes(losses) == [201]


def test_only_one_process_trains_a_run(run_folder: RunFolder) -> None:
    folder = run_folder()
    with locked(folder), pytest.raises(RunBusy, match="another process"):
        run_one(folder)
    assert not (folder / "result.json").exists()


def test_a_changed_config_is_refused(run_folder: RunFolder) -> None:
    folder = run_folder()
    run_one(folder, stop=_stop_after(3))
    run_folder(architecture={"num_experts": 8})
    with pytest.raises(UserError, match="num_experts is 4, that of config"):
        run_one(folder)
    done = run_folder("done")
    run_one(done)
    run_folder("done", seed=5)
    with pytest.raises(UserError, match="differs"):
        run_one(done)


def test_impossible_wishes_are_one_sentence(run_folder: RunFolder) -> None:
    with pytest.raises(UserError, match="no GPU"):
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        run_one(run_folder("gpu", device="cuda"))
    with pytest.raises(UserError, match="vocab_size"):
        run_one(run_folder("vocabulary", architecture={"vocab_size": 64}))
    failed = read_result(run_folder("vocabulary", architecture={"vocab_size": 64}))
    assert failed is not None and failed.status == "failed"


def test_only_the_newest_two_checkpoints_stay(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, step, {"step": step, "x": torch.ones(3)})
    state = load_checkpoint(tmp_path, CPU)
    assert state is not None and state["step"] == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_metrics_are_whole_lines_of_json(run_folder: RunFolder) -> None:
    folder = run_folder()
    run_one(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 31))
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)


def test_a_checkpoint_that_lacks_a_tensor_is_named(run_folder: RunFolder) -> None:
    folder = run_folder(training={"balancing": "auxiliary_loss"})
    run_one(folder, stop=_stop_after(5))
    state = load_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    lost = next(name for name in state["model"] if name.endswith("batch_load"))
    del state["model"][lost]
    save_checkpoint(folder, 6, state)
    with pytest.raises(UserError, match=rf"has no '{lost}', so another version of this program wrote it"):
        run_one(folder)
