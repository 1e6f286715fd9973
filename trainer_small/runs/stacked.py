"""Several small runs of one shape trained as one: a model axis before every parameter, all experts in one product.

A small model leaves a device idle between its many small operators; a stack runs each operator once for all of its
models. Runs keep what is their own: folder, seed, data, learning rate, optimizer, checkpoints, result. A stack is only
where their parameters lie and how their gradients are made.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fits.errors import UserError
from trainer_small.config import RunConfig
from trainer_small.data.batches import Batches
from trainer_small.model.model import Model
from trainer_small.result import Result, is_final, read_result
from trainer_small.runs.lock import Busy, locked
from trainer_small.runs.run import RunBusy, record_failure
from trainer_small.runs.run_loop import RunLoop, RunProgress, choose_device
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.memory_estimate import fit_micro_batch, with_micro_batch
from trainer_small.steps.objective import set_router_losses, training_loss
from trainer_small.steps.training import Training

_ALIKE = ("sequence_length", "batch_tokens", "micro_batch_tokens", "balancing", "cross_document_attention")
_ALIKE_WEIGHTS = ("router_z_loss", "sequence_balance_loss")


class Stack:
    """Trainings whose parameters lie in one stacked model from now on.

    Args:
        trainings: of one shape (``why_not_stacked``). Their parameters become views of the stack, one after another
            along the first axis, and everything that is done with a training alone goes on as before.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = list(trainings)
        first, models = trainings[0], [training.model for training in trainings]
        config = first.config
        with torch.device("meta"):
            self.model = Model(
                config.architecture, dispatch=first.model.dispatch, compute_dtype=first.model.compute_dtype
            )
        self.model.activation_checkpointing = first.model.activation_checkpointing
        self.model.document_separator = first.model.document_separator
        set_router_losses(self.model, config.training)
        for path, module in self.model.named_modules():
            parts = [model.get_submodule(path) for model in models]
            for name, held in module._parameters.items():
                if held is not None:
                    stacked = torch.stack([part._parameters[name].data for part in parts])  # type: ignore[union-attr]
                    module._parameters[name] = nn.Parameter(stacked)
                    for part, view in zip(parts, stacked, strict=True):
                        part._parameters[name].data = view  # type: ignore[union-attr]
            for name, held in module._buffers.items():
                if held is not None:
                    stacked = torch.stack([part._buffers[name] for part in parts])  # type: ignore[arg-type]
                    module._buffers[name] = stacked
                    for part, view in zip(parts, stacked, strict=True):
                        part._buffers[name] = view
        self._parameters = list(
            zip(self.model.parameters(), *(model.parameters() for model in models), strict=True)
        )  # one stacked parameter, then every model's own
        if config.compile:
            compile_model(self.model)
        self._later = [training.step - first.step for training in trainings]
        self.batches = Batches(self._windows, first.device)  # one reader and one copy for all

    def gradients(self) -> Tensor:
        """Give every training the gradients of its coming batch; returns the losses ``[models]``."""
        started, processor = time.perf_counter(), time.process_time()
        training = self.trainings[0].config.training
        batch = self.batches.of(self.trainings[0].step)
        losses = torch.zeros(len(batch), device=batch.device)
        for part in batch.split((training.micro_batch_tokens or training.batch_tokens) // training.sequence_length, 1):
            share = part.shape[1] / batch.shape[1]
            part_losses, objectives = training_loss(self.model, part)
            (objectives.sum() * share).backward()
            losses += part_losses.detach() * share
        for stacked, *own in self._parameters:
            assert stacked.grad is not None
            for parameter, grad in zip(own, stacked.grad, strict=True):
                parameter.grad = grad
            stacked.grad = None
        seconds = time.perf_counter() - started
        device_seconds = seconds if batch.is_cuda else time.process_time() - processor
        for each in self.trainings:
            each.seconds += seconds / len(batch)
            each.device_seconds += device_seconds / len(batch)
        return losses

    def _windows(self, step: int) -> np.ndarray:
        """``[models, windows, sequence_length + 1]`` when the first one's step is ``step``."""
        return np.stack([each.windows(step + later) for each, later in zip(self.trainings, self._later, strict=True)])


def why_not_stacked(first: RunConfig, other: RunConfig) -> str | None:
    """What keeps two runs from one stack, in a few words; None when nothing does."""
    for key in ("architecture", "dtype", "device", "compile", "activation_checkpointing", "parallel"):
        if getattr(first, key) != getattr(other, key):
            return f"{key} differs"
    one, two = first.training, other.training
    weights = _ALIKE_WEIGHTS + (("balancing_rate",) if one.balancing == "auxiliary_loss" else ())
    for key in _ALIKE + weights:
        if getattr(one, key) != getattr(two, key):
            return f"training.{key} differs"
    if one.batch_ramp or two.batch_ramp:
        return "the batch grows (training.batch_ramp)"
    if first.architecture.num_nextn_predict_layers:
        return "it has multi-token prediction"
    return None


def run_stack(
    directories: Sequence[str | Path],
    *,
    on_progress: Callable[[RunProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Result]:
    """Train the runs in ``directories`` as one stack, each to its end from wherever it stands.

    Every run gives the losses it would give alone, to float32 rounding but not to the bit. The same call again
    carries on after an interruption and ends with the bits of an undisturbed stack. A run that ends or fails leaves
    the others alone.

    Args, returns: as ``run_one``, for each of the folders in their order.

    Raises:
        UserError: the runs are not of one shape (``why_not_stacked``), or another process has one of them.
    """
    folders = [Path(directory) for directory in directories]
    configs = [RunConfig.load(folder / "config.yaml") for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        if reason := why_not_stacked(configs[0], config):
            raise UserError(f"{folder} cannot be stacked with {folders[0]}: {reason}; train it alone.")
    if torch.cuda.is_available():
        fitted = fit_micro_batch(configs[0], choose_device(configs[0]), models=len(configs))
        if fitted.training.micro_batch_tokens is not None:
            configs = [with_micro_batch(config, fitted.training.micro_batch_tokens) for config in configs]
    results: dict[Path, Result] = {}
    with ExitStack() as locks:
        running: list[_Running] = []
        for folder, config in zip(folders, configs, strict=True):
            try:
                locks.enter_context(locked(folder))
            except Busy:
                raise RunBusy(f"{folder}: another process is training this run; wait for it or stop it.") from None
            done = read_result(folder)
            if done is not None and is_final(folder):
                results[folder] = done
            elif (run := _begin(folder, config, on_progress, stop, results, len(folders))) is not None:
                running.append(run)
        while running:
            stack = Stack([run.loop.training for run in running])
            with closing(stack.batches):
                while len(stack.trainings) == len(running):
                    losses = stack.gradients()
                    running = [run for run, loss in zip(running, losses, strict=True) if run.goes_on(loss, results)]
    return [results[folder] for folder in folders]


class _Running:
    """One run of a stack, stopped before its coming step."""

    def __init__(self, folder: Path, config: RunConfig, loop: RunLoop) -> None:
        self.folder, self.config, self.loop = folder, config, loop
        self.course: Generator[None, Tensor | None, Result] = loop.course()

    def goes_on(self, loss: Tensor | None, results: dict[Path, Result]) -> bool:
        """Take the step with this loss; False when the run has ended, and ``results`` then says how."""
        try:
            self.course.send(loss)  # type: ignore[arg-type]
        except StopIteration as end:
            results[self.folder] = end.value
        except Exception as error:
            results[self.folder] = record_failure(self.folder, self.config, error)
        else:
            return True
        return False


def _begin(
    folder: Path, config: RunConfig, on_progress: Any, stop: Any, results: dict[Path, Result], together: int
) -> _Running | None:
    try:
        run = _Running(folder, config, RunLoop(folder, config, on_progress, stop, together))
    except Exception as error:
        results[folder] = record_failure(folder, config, error)
        return None
    return run if run.goes_on(None, results) else None
