"""A run from its folder's state to its end: resume, train, record, evaluate, checkpoint."""

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fits.errors import UserError
from trainer_small.config import NOT_THE_NUMBERS, RunConfig
from trainer_small.data.token_reader import TokenReader
from trainer_small.data.validation_tokens import ValidationTokens
from trainer_small.machine.memory import reset_peak_memory
from trainer_small.machine.numerics import set_matmul_precision
from trainer_small.machine.ranks import join_ranks
from trainer_small.result import Result, Router, Status, result_path
from trainer_small.runs.checkpoint import (
    CheckpointWriter,
    Write,
    keep_checkpoint,
    load_checkpoint,
    read_checkpoint,
    remove_partial_checkpoints,
    save_checkpoint,
)
from trainer_small.runs.metrics import append_metrics, truncate_metrics
from trainer_small.runs.outcome import outcome
from trainer_small.runs.trunk import before_decay_digest, difference, find_trunk_state
from trainer_small.runs.writers import Writer, open_writers
from trainer_small.steps.evaluate import Evaluation, evaluate
from trainer_small.steps.memory_estimate import require_memory
from trainer_small.steps.schedule import learning_rate_factor
from trainer_small.steps.training import Diverged, Training

_METRIC_LINES = 200
"""Lines of training metrics in a whole run."""
_PROGRESS_SECONDS = 0.5
CHECKPOINT_SHARE = 0.05
"""Of a run's time, at most, for holding it up to save it: the next checkpoint comes so much later."""


@dataclass(frozen=True)
class RunProgress:
    run_id: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    """Of training, at the mean speed so far."""


class RunLoop:
    """
    Args:
        on_progress, stop: as for ``run_one``.
        together: runs that stand still while this one is saved: those of its stack.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        on_progress: Callable[[RunProgress], None] | None,
        stop: Callable[[], bool] | None,
        together: int = 1,
    ) -> None:
        self.directory, self.config = directory, config
        self.on_progress, self.stop, self.together = on_progress, stop, together
        self.metrics = directory / "metrics.jsonl"
        self.ranks = join_ranks()
        self.device = choose_device(config, self.ranks.local_rank)
        reset_peak_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.precision = set_matmul_precision(self.device, config.architecture.hidden_size)
        training = config.training
        sources = [  # an absolute path stays what it is
            source.model_copy(update={"tokens": str(directory / source.tokens)}) for source in config.data.sources
        ]
        self.reader = TokenReader(sources, training.sequence_length, config.seed)
        if self.reader.vocab_size > config.architecture.vocab_size:
            raise UserError(
                f"{sources[0].tokens} uses a vocabulary of {self.reader.vocab_size}, above vocab_size "
                f"{config.architecture.vocab_size} of run {config.run_id}; make them agree."
            )
        if not training.cross_document_attention:
            self._require_long_documents()
        self.validation = ValidationTokens(sources, config.evaluation.validation_bytes)
        # What ``auto`` has come to here belongs to the numbers: another device must not go on with them.
        self.exact = config.model_copy(update={"dtype": config.dtype_on(self.device.type)})
        self.identity = f"{self.exact.digest()} {self.reader.identity}"
        self.trunk_identity = f"{before_decay_digest(self.exact)} {self.reader.identity}"
        require_memory(config, self.device, self.ranks.size)
        self.training = Training(config, self.reader, self.device, self.ranks)
        self.writers: list[Writer] = []
        self.evaluation_seconds = 0.0
        self.points = {training.steps >> shift for shift in range(1, config.evaluation.earlier_points + 1)} - {0}
        self.kept = {training.step_at(tokens) for tokens in config.saved_at}
        self.every = max(1, training.steps // _METRIC_LINES)
        self.lines = deque([*range(self.every, training.steps, self.every), training.steps])
        """Steps whose line of metrics is still to be written."""
        self.checkpoints = CheckpointWriter(directory, beside=self.device.type == "cuda")
        self.next_checkpoint = 0.0
        """When one is due, by ``time.monotonic``."""

    def _require_long_documents(self) -> None:
        longest, length = self.reader.longest_document, self.config.training.sequence_length
        if length > longest:
            raise UserError(
                f"run {self.config.run_id}: sequence_length is {length} but the longest document has {longest} tokens "
                "and cross_document_attention is false, so no token would see that far; shorten the sequences."
            )

    def train(self) -> Result:
        course = self.course()
        try:
            while True:
                course.send(None)
        except StopIteration as end:
            return end.value

    def course(self) -> Generator[None, torch.Tensor | None, Result]:
        """The whole run, which waits before each step: for the step's loss where its gradients are made by others
        (``stacked``), else for None."""
        self._resume()
        try:
            return (yield from self._train())
        finally:
            self.training.batches.close()
            self.checkpoints.close()
            for writer in self.writers:
                writer.close()

    def _train(self) -> Generator[None, torch.Tensor | None, Result]:
        training = self.training
        steps = self.config.training.steps
        last_progress = time.monotonic()
        self.next_checkpoint = last_progress + self.config.checkpoint_seconds
        try:
            while training.step < steps:
                training.advance((yield))
                self._record()
                if training.step in self.points and training.step < steps:
                    self._evaluate()
                if training.step in self.kept:
                    self._save(keep_checkpoint)
                now = time.monotonic()
                if self.on_progress and now - last_progress > _PROGRESS_SECONDS:
                    last_progress = now
                    self.on_progress(self._progress())
                self.checkpoints.check()
                stopping = self.stop is not None and training.step < steps and self.stop()
                # The first alone, which has waited for the disk; a write that lasts is not waited for.
                due = self.ranks.is_first and now > self.next_checkpoint and not self.checkpoints.busy
                # All ranks stop or save, or none. They wait for each other to agree: only where they wait anyhow.
                asked = self.ranks.size == 1 or training.step % training.check_every == 0
                wish = self.ranks.agree(2 * stopping + due) if asked else 0
                if wish:
                    self._save(save_checkpoint)
                if wish >= 2:
                    self.checkpoints.wait()
                    return self._result("interrupted", None, None)
            self._settle()
        except Diverged as end:
            result = self._result("diverged", None, None, reason=end.cause, step=end.step)
            if self.ranks.is_first:
                result.save(result_path(self.directory))
            return result
        evaluation, load = self._evaluate()
        self._save(save_checkpoint)
        self.checkpoints.wait()
        result = self._result("done", evaluation, load)
        if self.ranks.is_first:
            result.save(result_path(self.directory))
        return result

    def _resume(self) -> None:
        if self.ranks.is_first:
            remove_partial_checkpoints(self.directory)
        state = load_checkpoint(self.directory, self.device)
        if state is not None:
            if state["identity"] != self.identity:
                raise UserError(f"{self.directory} holds a checkpoint {self._otherness(state)}; give it a new folder.")
            self.training.restore(state)
            self.evaluation_seconds = state["evaluation_seconds"]
        if self.ranks.is_first:
            before_the_end = min(self.training.step, self.config.training.steps - 1)  # which is evaluated again
            truncate_metrics(self.metrics, self.training.step, evaluated=before_the_end)
        while self.lines and self.lines[0] <= self.training.step:
            self.lines.popleft()
        leaving = state is None and self.config.trunk is not None
        if self.ranks.is_first:
            self.writers = open_writers(self.directory, self.config, 0 if leaving else self.training.step)
        if leaving:
            self._leave_trunk()

    def _otherness(self, state: dict[str, Any]) -> str:
        found = difference(state["config"], self.exact.model_dump(mode="json"))
        if found is None:
            return "that was trained on other tokens"
        key, there, here = found
        return f"of another run: its {key} is {there}, that of config.yaml {here}"

    def _leave_trunk(self) -> None:
        """Take over the trunk's state and tell its part of the story as an independent run would."""
        path = find_trunk_state(self.directory, self.config)
        state = read_checkpoint(path, self.device)
        if state["trunk_identity"] != self.trunk_identity:
            raise UserError(
                f"{path} was trained with another config or on other tokens than run {self.config.run_id}; "
                "make them agree, or train the trunk again in a new folder."
            )
        self.training.restore(state | {"seconds": 0.0, "device_seconds": 0.0, "peak_memory_bytes": 0})
        if self.ranks.is_first:
            truncate_metrics(self.metrics, 0, evaluated=0)
        self._record()

    def _save(self, how: Write) -> None:
        self._settle()
        started = time.monotonic()
        state = self._state()  # takes all ranks
        if self.ranks.is_first:
            self.checkpoints.write(how, self.training.step, state)
        now = time.monotonic()
        held = self.together * (now - started)
        self.next_checkpoint = now + max(self.config.checkpoint_seconds, held / CHECKPOINT_SHARE)

    def _state(self) -> dict[str, Any]:
        return self.training.state() | {
            "identity": self.identity,
            "trunk_identity": self.trunk_identity,
            "config": self.exact.model_dump(mode="json", exclude=set(NOT_THE_NUMBERS)),
            "evaluation_seconds": self.evaluation_seconds,
        }

    def _settle(self) -> None:
        """Wait for the device, and tell what it has come to."""
        self.training.settle()
        self._record()

    def _record(self) -> None:
        """Write the lines that are due, of losses that are on the host: a card need not be waited for at each."""
        while self.lines and self.lines[0] <= len(self.training.losses):
            self._line(self.lines.popleft())

    def _line(self, step: int) -> None:
        training = self.training
        recipe = self.config.training
        stretch = slice(max(0, step - self.every), step)
        self._note(
            {
                "step": step,
                "tokens": recipe.tokens_at(step),
                "loss": float(np.mean(training.losses[stretch])),
                "gradient_norm": float(np.mean(training.gradient_norms[stretch])),
                "learning_rate": recipe.learning_rate * learning_rate_factor(recipe, step - 1),
                "seconds": round(training.seconds, 3),
                "tokens_per_second": round(self._tokens_per_second(), 1),
            },
        )

    def _tokens_per_second(self) -> float:
        """Of this run itself, without what a trunk did for it."""
        own = self.config.training.tokens_at(self.training.step - self.config.first_step)
        return own / max(self.training.seconds, 1e-9)

    def _evaluate(self) -> tuple[Evaluation, Router | None]:
        self._settle()
        started = time.perf_counter()
        recipe = self.config.training
        batch = recipe.micro_batch_tokens or recipe.batch_tokens
        evaluation, load = evaluate(self.training.model, self.validation, recipe.sequence_length, batch, self.device)
        self.evaluation_seconds += time.perf_counter() - started
        step = self.training.step
        self._note(
            {
                "step": step,
                "tokens": recipe.tokens_at(step),
                "validation_loss": evaluation.all.loss,
                "bits_per_byte": evaluation.all.bits_per_byte,
                "loss_standard_error": evaluation.all.loss_standard_error,
            },
        )
        return evaluation, load

    def _note(self, line: dict[str, float]) -> None:
        if self.ranks.is_first:
            append_metrics(self.metrics, line)
            for writer in self.writers:
                writer.write(int(line["step"]), {key: value for key, value in line.items() if key != "step"})

    def _progress(self) -> RunProgress:
        training, recipe = self.training, self.config.training
        speed = self._tokens_per_second()
        return RunProgress(
            self.config.run_id,
            training.step,
            recipe.steps,
            training.losses[-1] if training.losses else float("nan"),
            speed,
            (recipe.tokens_trained - recipe.tokens_at(training.step)) / max(speed, 1e-9),
        )

    def _result(
        self,
        status: Status,
        evaluation: Evaluation | None,
        router: Router | None,
        *,
        reason: str | None = None,
        step: int | None = None,
    ) -> Result:
        return outcome(
            self.training,
            status,
            evaluation=evaluation,
            router=router,
            reason=reason,
            step=step,
            evaluation_seconds=self.evaluation_seconds,
            precision=self.precision,
            metrics=self.metrics,
        )


def choose_device(config: RunConfig, local_rank: int = 0) -> torch.device:
    """The device the run asks for, or for ``auto`` the best there is; the process's own GPU of several.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"run {config.run_id}: device is 'cuda' but torch sees no GPU here; set device to 'cpu'.")
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"run {config.run_id}: process {local_rank} of this machine has no GPU, torch sees "
                f"{torch.cuda.device_count()}; start one process for each."
            )
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
