"""One trunk, many horizons: a branch ends like an independent run of its length, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fits.errors import UserError
from trainer_small.result import read_result
from trainer_small.runs.checkpoint_files import checkpoints
from trainer_small.runs.metrics import read_metrics
from trainer_small.runs.run import run_one
from trainer_small.runs.trunk import TrunkNotReady
from trainer_small.sweeps.sweep_status import sweep_table

RunFolder = Callable[..., Path]
SameRun = Callable[[Path, Path], None]

BATCH = 128
RECIPE = {"warmup_tokens": 4 * BATCH, "decay_fraction": 0.25}


def _training(steps: int, **changes: Any) -> dict[str, Any]:
    return RECIPE | {"tokens": steps * BATCH} | changes


def _stop_after(steps: int) -> Callable[[], bool]:
    count = iter(range(10**9))
    return lambda: next(count) >= steps - 1


@pytest.fixture
def trunk(run_folder: RunFolder) -> Path:
    return run_folder("long", training=_training(40), saved_at=[12 * BATCH, 18 * BATCH])


def test_branches_end_like_independent_runs(run_folder: RunFolder, trunk: Path, same_run: SameRun) -> None:
    whole = run_one(trunk)
    assert [path.name.split("-")[1] for path in checkpoints(trunk, "kept")] == ["000000018", "000000012"]
    for name, steps, leaves in (("short", 16, 12), ("middle", 24, 18)):
        branch = run_folder(
            f"{name}-branch", training=_training(steps), trunk={"run_id": "long", "tokens": leaves * BATCH}
        )
        alone = run_folder(f"{name}-alone", training=_training(steps))
        result, other = run_one(branch), run_one(alone)
        same_run(branch, alone)
        assert result.counts and other.counts and whole.counts
        assert result.counts.tokens == other.counts.tokens == other.counts.tokens_spent == steps * BATCH
        assert result.counts.tokens_spent == (steps - leaves) * BATCH
        assert result.counts.train_flops == other.counts.train_flops
        assert result.counts.train_flops_spent == result.counts.flops_per_token * result.counts.tokens_spent
    table = sweep_table(trunk.parent).set_index("run_id")
    assert table.loc["short-branch", "tokens"] == 16 * BATCH
    assert table.loc["short-branch", "tokens_spent"] == 4 * BATCH
    assert table.loc["short-branch", "trunk"] == "long"


def test_trunk_and_branch_may_be_stopped_anywhere(run_folder: RunFolder, trunk: Path, same_run: SameRun) -> None:
    branch = run_folder("branch", training=_training(24), trunk={"run_id": "long", "tokens": 18 * BATCH})
    alone = run_folder("alone", training=_training(24))
    with pytest.raises(TrunkNotReady, match="has not come to 2304 tokens yet"):
        run_one(branch)
    assert not (branch / "result.json").exists()
    for steps in (5, 14):  # once before the kept state, once just after it
        assert run_one(trunk, stop=_stop_after(steps)).status == "interrupted"
    assert len(checkpoints(trunk, "kept")) == 2
    assert run_one(branch, stop=_stop_after(3)).status == "interrupted"
    run_one(branch)
    run_one(alone)
    same_run(branch, alone)
    run_one(trunk)
    run_one(run_folder("undisturbed", training=_training(40)))
    same_run(trunk, trunk.parent / "undisturbed")
    assert [record["step"] for record in read_metrics(branch / "metrics.jsonl") if "loss" in record] == list(
        range(1, 25)
    )


def test_a_branch_can_be_a_trunk(run_folder: RunFolder, trunk: Path, same_run: SameRun) -> None:
    run_one(trunk)
    middle = run_folder(
        "middle", training=_training(32), saved_at=[20 * BATCH], trunk={"run_id": "long", "tokens": 18 * BATCH}
    )
    run_one(middle)
    last = run_folder("last", training=_training(27), trunk={"run_id": "middle", "tokens": 20 * BATCH})
    run_one(last)
    alone = run_folder("alone", training=_training(27))
    run_one(alone)
    same_run(last, alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trunk": {"run_id": "other", "tokens": 12 * BATCH}}, "train the trunk first, or mend trunk.run_id"),
        (
            {"trunk": {"run_id": "long", "tokens": 11 * BATCH}},
            "keeps no state after 1408 tokens (saved_at: 1536, 2304)",
        ),
        ({"seed": 1}, "has seed 0, the branch 1"),
        ({"training": {"learning_rate": 0.02}}, "has training.learning_rate 0.01, the branch 0.02"),
        ({"architecture": {"num_experts": 8}}, "has architecture.num_experts 4, the branch 8"),
        ({"training": {"warmup_tokens": None}}, "give both the same warmup_tokens"),
    ],
)
def test_a_wrong_trunk_is_one_sentence(run_folder: RunFolder, trunk: Path, changes: dict[str, Any], words: str) -> None:
    run_one(trunk, stop=_stop_after(13))
    training = _training(16, **changes.pop("training", {}))
    branch = run_folder(
        "branch", **({"training": training, "trunk": {"run_id": "long", "tokens": 12 * BATCH}} | changes)
    )
    with pytest.raises(UserError) as fault:
        run_one(branch)
    assert words in str(fault.value) and "\n" not in str(fault.value)
    result = read_result(branch)
    assert result is not None and result.status == "failed" and words in (result.reason or "")


def test_a_state_of_another_config_or_a_damaged_one_is_named(run_folder: RunFolder, trunk: Path) -> None:
    run_one(trunk)
    other = run_folder("other", seed=1, training=_training(16), trunk={"run_id": "long", "tokens": 12 * BATCH})
    config = trunk / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UserError, match="was trained with another config or on other tokens"):
        run_one(other)
    config.write_text(config.read_text().replace("seed: 1", "seed: 0"))
    branch = run_folder("branch", training=_training(16), trunk={"run_id": "long", "tokens": 12 * BATCH})
    kept = checkpoints(trunk, "kept")[-1]
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(UserError, match="not intact"):
        run_one(branch)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"saved_at": [31 * BATCH]}, "saved_at 3968 must lie above 0 and not inside the decay"),
        ({"saved_at": [0]}, "saved_at 0 must lie above 0"),
        ({"trunk": {"run_id": "long", "tokens": 31 * BATCH}}, "which starts at 3840 tokens of run 'run'"),
        ({"trunk": {"run_id": "run", "tokens": BATCH}}, "trunk.run_id is the run's own"),
        ({"training": _training(40, schedule="cosine"), "saved_at": [12 * BATCH]}, "not inside the decay"),
        ({"training": _training(40, warmup_tokens=31 * BATCH)}, "warmup_tokens 3968 and decay_fraction 0.25"),
    ],
)
def test_points_inside_the_decay_are_refused(run_spec: Callable[..., object], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as fault:
        run_spec(**({"training": _training(40)} | keys))
    assert words in str(fault.value)
