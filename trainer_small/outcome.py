"""What a run has come to, as its ``Result``: counts, losses, speed, health and the machine."""

import importlib.metadata
import platform

import numpy as np
import torch

from trainer_small.evaluate import Evaluation
from trainer_small.memory import peak_memory_bytes
from trainer_small.numerics import processor_name
from trainer_small.result import Counts, Health, Losses, Machine, Result, Router, Speed, Status
from trainer_small.training import Training, find_spikes


def outcome(
    training: Training,
    status: Status,
    *,
    evaluation: Evaluation | None,
    router: Router | None,
    reason: str | None,
    step: int | None,
    evaluation_seconds: float,
    precision: str,
) -> Result:
    """Put the result together; ``step`` is the training's own when left out."""
    config, reader = training.config, training.reader
    counts = _counts(training)
    return Result(
        run_id=config.run_id,
        status=status,
        reason=reason,
        step=training.step if step is None else step,
        steps=config.training.steps,
        seed=config.seed,
        config_sha256=config.digest(),
        corpus_sha256=reader.corpus_sha256,
        tokenizer_sha256=reader.tokenizer_sha256,
        data=reader.use(counts.tokens),
        counts=counts,
        losses=None if evaluation is None else _losses(evaluation, training.losses),
        speed=_speed(training, counts, evaluation_seconds),
        router=router,
        health=_health(training),
        machine=_machine(training, precision),
    )


def _counts(training: Training) -> Counts:
    architecture, recipe = training.config.architecture, training.config.training
    tokens = recipe.tokens_at(training.step)
    spent = recipe.tokens_at(training.step - training.config.first_step)
    per_token = architecture.flops_per_token(recipe.sequence_length)
    return Counts(
        params_total=architecture.params_total,
        params_active=architecture.params_active,
        params_active_non_embedding=architecture.params_active_non_embedding,
        activation_ratio=architecture.activation_ratio,
        granularity=architecture.granularity,
        flops_per_token=per_token,
        tokens=tokens,
        epochs=training.reader.epochs(tokens),
        train_flops=per_token * tokens,
        tokens_spent=spent,
        train_flops_spent=per_token * spent,
        train_bytes=training.reader.text_bytes(tokens),
    )


def _speed(training: Training, counts: Counts, evaluation_seconds: float) -> Speed:
    seconds = max(training.seconds, 1e-9)
    on_gpu = training.device.type == "cuda"
    return Speed(
        wall_seconds=training.seconds + evaluation_seconds,
        tokens_per_second=counts.tokens_spent / seconds,
        achieved_flops_per_second=counts.train_flops_spent / seconds,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes(),
    )


def _machine(training: Training, precision: str) -> Machine:
    return Machine(
        device=torch.cuda.get_device_name() if training.device.type == "cuda" else processor_name(),
        threads=torch.get_num_threads(),
        processes=training.parallel.ranks.size,
        dtype=training.config.dtype,
        matmul_precision=precision,
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        program=importlib.metadata.version("moe-scaling"),
    )


def _losses(evaluation: Evaluation, train_losses: list[float]) -> Losses:
    recent = float(np.mean(train_losses[-max(1, len(train_losses) // 10) :]))
    return Losses(**evaluation.all.model_dump(), train_loss=recent, groups=evaluation.groups)


def _health(training: Training) -> Health | None:
    norms = [norm for norm in training.gradient_norms if np.isfinite(norm)]
    if not norms:
        return None
    spikes = find_spikes(training.losses)
    return Health(
        gradient_norm_mean=float(np.mean(norms)),
        gradient_norm_max=max(norms),
        spikes=len(spikes),
        spike_steps=tuple(spikes[:10]),
    )
