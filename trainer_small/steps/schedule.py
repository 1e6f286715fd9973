"""Learning rate over a run's own horizon, as a factor of its peak."""

import math

from trainer_small.training_config import TrainingConfig


def learning_rate_factor(training: TrainingConfig, step: int) -> float:
    """Factor for ``step`` (from 0) of ``training.steps``: linear warm-up, then WSD or cosine.

    WSD decays by 1 - sqrt (arXiv 2405.18392); both end at ``final_learning_rate_fraction``.
    """
    steps, warmup = training.steps, training.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if training.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    else:
        done = max(0, step - training.decay_start)
        shape = 1 - math.sqrt(done / (steps - training.decay_start)) if done else 1.0
    final = training.final_learning_rate_fraction
    return final + (1 - final) * shape
