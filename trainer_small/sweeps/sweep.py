"""A sweep is a list of runs on one corpus: ``sweep.yaml``, its cost, and its place on disk. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from fits.html import card
from fits.schema import Count, Schema
from trainer_small.config import DataConfig, RunConfig, RunSpec
from trainer_small.machine.run_memory import run_memory_bytes


@dataclass(frozen=True)
class RunCost:
    """What one run will take; FLOPs count causal attention and the head.

    ``tokens`` and ``train_flops`` are of the whole horizon, the two ``_spent`` without what a trunk does for the run.
    """

    run_id: str
    params_total: int
    params_active: int
    tokens: int
    train_flops: int
    tokens_spent: int
    train_flops_spent: int
    memory_bytes: int
    """Estimate of the training process's peak, without the libraries' own memory."""


@dataclass(frozen=True)
class SweepCost:
    """What a sweep will take, run by run and in all."""

    runs: tuple[RunCost, ...]

    @property
    def tokens(self) -> int:
        return sum(run.tokens for run in self.runs)

    @property
    def tokens_spent(self) -> int:
        return sum(run.tokens_spent for run in self.runs)

    @property
    def train_flops_spent(self) -> int:
        return sum(run.train_flops_spent for run in self.runs)

    @property
    def train_flops(self) -> int:
        """Of all horizons: what the runs would cost without trunks."""
        return sum(run.train_flops for run in self.runs)


class Sweep(Schema):
    """``sweep.yaml``: the runs to buy. Paths are relative to the file."""

    schema_version: Literal[1] = 1
    name: str
    purpose: str = ""
    corpus: str
    """Corpus folder: train.jsonl, validation.jsonl."""
    tokenizers: dict[Count, str]
    """Tokenizer file (tokenizer.json) for every vocabulary size that a run uses."""
    runs: tuple[RunSpec, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.runs:
            raise ValueError("runs is empty; list at least one run")
        seen: set[str] = set()
        for run in self.runs:
            if run.run_id in seen:
                raise ValueError(f"run_id '{run.run_id}' is used twice; every run needs its own")
            seen.add(run.run_id)
            if run.architecture.vocab_size not in self.tokenizers:
                raise ValueError(
                    f"run '{run.run_id}' has vocab_size {run.architecture.vocab_size}, "
                    f"for which tokenizers has no file (it has {sorted(self.tokenizers)})"
                )
        self._check_trunks()
        return self

    def _check_trunks(self) -> None:
        runs = {run.run_id: run for run in self.runs}
        for run in self.runs:
            if run.trunk is None:
                continue
            trunk = runs.get(run.trunk.run_id)
            if trunk is None:
                raise ValueError(f"run '{run.run_id}' has trunk '{run.trunk.run_id}', which is no run of the sweep")
            if run.first_step not in {trunk.training.step_at(tokens) for tokens in trunk.saved_at}:
                raise ValueError(
                    f"run '{run.run_id}' leaves its trunk '{trunk.run_id}' at {run.trunk.tokens} tokens, which is not "
                    f"in that run's saved_at {list(trunk.saved_at)}"
                )
            if trunk.trunk is not None and run.first_step <= trunk.first_step:
                raise ValueError(f"run '{run.run_id}' leaves its trunk '{trunk.run_id}' before that leaves its own")

    def _repr_html_(self) -> str:
        cost = self.cost()
        return card(
            self.name,
            about=f"{self.purpose}; {len(cost.runs)} runs, {cost.tokens:.3g} tokens, {cost.train_flops:.3g} FLOP",
            columns=["run", "for", "parameters", "active", "tokens", "FLOP"],
            rows=[
                [run.run_id, run.purpose, each.params_total, each.params_active, each.tokens, float(each.train_flops)]
                for run, each in zip(self.runs, cost.runs, strict=True)
            ],
        )

    def cost(self) -> SweepCost:
        """Parameters, tokens and FLOPs of every run, by the exact counts of its architecture."""
        return SweepCost(tuple(_run_cost(run) for run in self.runs))


def _run_cost(run: RunSpec) -> RunCost:
    architecture = run.architecture
    return RunCost(
        run.run_id,
        architecture.params_total,
        architecture.params_active,
        run.training.tokens_trained,
        run.train_flops,
        run.tokens_spent,
        run.train_flops_spent,
        run_memory_bytes(run),
    )


def tokens_folder(out: Path, vocab_size: int) -> Path:
    """Where a sweep keeps the token shards of one tokenizer."""
    return out / "tokens" / str(vocab_size)


def run_config(run: RunSpec) -> RunConfig:
    """The run as it will stand in ``out/<run_id>/config.yaml``, its tokens in ``out/tokens``."""
    tokens = DataConfig(tokens=f"../tokens/{run.architecture.vocab_size}")
    return RunConfig(**{name: getattr(run, name) for name in RunSpec.model_fields}, data=tokens)
