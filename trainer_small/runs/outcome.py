"""What a run has come to, as its ``Result``: counts, losses, speed and health."""

from pathlib import Path

import numpy as np
import torch

from trainer_small.model.gemm import gemm_flops_per_second
from trainer_small.result import Counts, Evaluated, Health, Losses, Result, Router, Speed, Status
from trainer_small.runs.metrics import read_metrics
from trainer_small.runs.provenance import machine
from trainer_small.runs.run_warnings import cautions
from trainer_small.steps.evaluate import Evaluation
from trainer_small.steps.training import Training, find_spikes


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
    metrics: Path,
) -> Result:
    """Put the result together; ``step`` is the training's own when left out, ``metrics`` holds the curve."""
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
        evaluations=_curve(metrics),
        warnings=cautions(config, reader),
        speed=_speed(training, counts, evaluation_seconds, precision),
        router=router,
        health=_health(training),
        machine=machine(training, precision),
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
        multi_token_params=architecture.multi_token_params,
        activation_ratio=architecture.activation_ratio,
        granularity=architecture.granularity,
        flops_per_token=per_token,
        multi_token_flops_per_token=architecture.multi_token_flops_per_token(recipe.sequence_length),
        tokens=tokens,
        epochs=training.reader.epochs(tokens),
        train_flops=per_token * tokens,
        tokens_spent=spent,
        train_flops_spent=per_token * spent,
        train_bytes=training.reader.text_bytes(tokens),
    )


def _speed(training: Training, counts: Counts, evaluation_seconds: float, precision: str) -> Speed:
    config, seconds = training.config, max(training.seconds, 1e-9)
    dtype, processes = training.dtype, training.parallel.ranks.size
    achieved = counts.train_flops_spent / seconds
    gemm = processes * gemm_flops_per_second(training.device, dtype, torch.get_num_threads(), precision)
    return Speed(
        wall_seconds=training.seconds + evaluation_seconds,
        train_seconds=training.seconds,
        evaluation_seconds=evaluation_seconds,
        device_seconds=training.device_seconds,
        tokens_per_second=counts.tokens_spent / seconds,
        achieved_flops_per_second=achieved,
        gemm_flops_per_second=gemm,
        mfu=achieved / gemm,
        mfu_data_sheet=achieved / (processes * config.peak_flops) if config.peak_flops else None,
        peak_memory_bytes=training.peak_memory_bytes(),
    )


def _curve(metrics: Path) -> tuple[Evaluated, ...]:
    return tuple(
        Evaluated(
            step=line["step"],
            tokens=line["tokens"],
            loss=line["validation_loss"],
            loss_standard_error=line["loss_standard_error"],
            bits_per_byte=line["bits_per_byte"],
        )
        for line in read_metrics(metrics)
        if "validation_loss" in line
    )


def _losses(evaluation: Evaluation, train_losses: list[float]) -> Losses:
    recent = float(np.mean(train_losses[-max(1, len(train_losses) // 10) :]))
    return Losses(**evaluation.all.model_dump(), train_loss=recent, groups=evaluation.groups)


def _health(training: Training) -> Health | None:
    norms = [norm for norm in training.gradient_norms if np.isfinite(norm)]
    if not norms:
        return None
    clip = training.config.training.grad_clip or np.inf
    spikes = find_spikes(training.losses)
    return Health(
        gradient_norm_mean=float(np.mean(norms)),
        gradient_norm_max=max(norms),
        gradient_norm_last=float(np.mean(norms[-max(1, len(norms) // 10) :])),
        clipped_steps=sum(norm > clip for norm in norms),
        spikes=len(spikes),
        spike_steps=tuple(spikes[:10]),
    )
