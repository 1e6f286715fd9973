"""A tiny corpus, its tokenizer, and runs on it that take a second."""

import json
import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fits.errors import UserError
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.data.tokens import prepare_tokens
from trainer_small.engines.choice import EngineChoice
from trainer_small.engines.engine import Listener, Task
from trainer_small.engines.jobs import train_by_jobs
from trainer_small.result import read_result
from trainer_small.runs.checkpoint import load_checkpoint
from trainer_small.runs.metrics import read_metrics
from trainer_small.runs.run import run_one
from trainer_small.sweeps.sweep import Sweep, run_config

TINY = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "dense_ffn_size": 48,
    "num_dense_layers": 1,
    "num_experts": 4,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_ffn_size": 16,
    "router_selection_bias": True,
    "router_score_function": "sigmoid",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny_architecture() -> Callable[..., Architecture]:
    """A two-layer mixture of experts; keywords change it."""
    return lambda **changes: Architecture.parse(TINY | changes, "architecture")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 + 40 documents of made-up words with enough order in them to be learnt, and ``tokenizer.json``."""
    folder = tmp_path_factory.mktemp("corpus")
    random_words = random.Random(1)
    words = ["".join(random_words.choices("abcdefghijklmnopé", k=random_words.randint(2, 7))) for _ in range(150)]

    def text(length: int) -> str:
        at, out = random_words.randrange(150), []
        for _ in range(length):
            out.append(words[at])
            at = (at * 7 + random_words.randrange(3)) % 150
        return " ".join(out) + "\n"

    for split, count in (("train", 300), ("validation", 40)):
        lines = [
            {"id": f"{split}-{index}", "source": "made", "text": text(random_words.randint(5, 160))}
            for index in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (json.loads(line)["text"] for line in (folder / "train.jsonl").open(encoding="utf-8"))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokens(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of the corpus."""
    folder = tmp_path_factory.mktemp("runs") / "tokens" / "512"
    prepare_tokens(corpus, corpus / "tokenizer.json", folder)
    return folder


@pytest.fixture
def run_spec() -> Callable[..., RunSpec]:
    """A run of 30 steps; ``training``, ``architecture`` and other keys change it."""

    def make(run_id: str = "run", *, training: Any = None, architecture: Any = None, **keys: Any) -> RunSpec:
        recipe = {"tokens": 30 * 128, "sequence_length": 32, "batch_tokens": 128, "learning_rate": 0.01}
        data = {
            "run_id": run_id,
            "architecture": TINY | (architecture or {}),
            "training": recipe | (training or {}),
            "evaluation": {"validation_bytes": 4000},
            "device": "cpu",
            **keys,
        }
        return RunSpec.parse(data, "run")

    return make


@pytest.fixture
def run_folder(tokens: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]) -> Callable[..., Path]:
    """A run folder with its config, on the session's tokens."""

    def make(run_id: str = "run", **keys: Any) -> Path:
        config = run_config(run_spec(run_id, **keys))
        config = config.model_copy(update={"data": config.data.model_copy(update={"tokens": str(tokens)})})
        config.save(tmp_path / run_id / "config.yaml")
        return tmp_path / run_id

    return make


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder, torch.device("cpu"))
    assert state is not None
    moments = {
        f"{index}.{name}": value
        for index, entry in state["optimizer"]["state"].items()
        for name, value in entry.items()
    }
    return state["model"] | moments


def _assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, router biases, moments, losses of every step, metrics and validation."""
    weights, others = _weights(one), _weights(other)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    lines = [
        [
            {key: value for key, value in record.items() if "second" not in key}
            for record in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (one, other)
    ]
    assert lines[0] == lines[1]
    first, second = (read_result(folder) for folder in (one, other))
    assert first is not None and second is not None
    assert (first.losses, first.router, first.health) == (second.losses, second.router, second.health)


@pytest.fixture
def same_run() -> Callable[[Path, Path], None]:
    """Asserts that two finished run folders agree to the last bit."""
    return _assert_same_run


@pytest.fixture
def sweep_file(corpus: Path, tmp_path: Path, run_spec: Callable[..., RunSpec]) -> Callable[..., Path]:
    """A sweep file of so many runs that differ in their seed; keywords as for ``run_spec``."""

    def make(count: int = 3, **keys: Any) -> Path:
        runs = tuple(run_spec(f"run{index}", seed=index, **keys) for index in range(count))
        tokenizer = os.path.relpath(corpus / "tokenizer.json", tmp_path)
        sweep = Sweep(name="tiny", corpus=os.path.relpath(corpus, tmp_path), tokenizers={512: tokenizer}, runs=runs)
        sweep.save(tmp_path / "sweep.yaml")
        return tmp_path / "sweep.yaml"

    return make


class Scheduler:
    """A cluster of the simplest kind: a job trains its runs here when somebody asks for it, or is lost."""

    poll_seconds = 0.0

    def __init__(self, lose: int = 0, at_most: int = 2) -> None:
        self.lose, self.at_most, self.silent = lose, at_most, 1
        self.jobs: dict[str, Sequence[Task]] = {}
        self.submitted: list[list[str]] = []

    def room(self, outstanding: int) -> int:
        return self.at_most - outstanding

    def submit(self, packs: Sequence[Sequence[Task]]) -> list[str]:
        names = [str(len(self.submitted) + index) for index in range(len(packs))]
        self.jobs |= dict(zip(names, packs, strict=True))
        self.submitted += [[task.run_id for task in pack] for pack in packs]
        return names

    def alive(self) -> set[str] | None:
        if self.silent:
            self.silent -= 1
            return None
        name = next(iter(self.jobs), None)
        if name is not None:
            runs = self.jobs.pop(name)
            if self.lose:
                self.lose -= 1
            else:
                for task in runs:
                    with suppress(UserError):
                        run_one(task.directory)
        return set(self.jobs)

    def train(self, tasks: Sequence[Task], listener: Listener) -> bool:
        return train_by_jobs(self, tasks, listener, advice="look there.")


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The engine of every sweep from here on: no processes, so a sweep takes as long as its runs."""
    made = Scheduler()
    monkeypatch.setattr(EngineChoice, "engine", lambda *_, **__: made)
    return made
