"""Carrying the proxies' recipe to the size of the plan: learning rate, batch, schedule."""

from dataclasses import dataclass

from scaling.plan import Optimizer, Schedule
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec

# Optimal batch grows as tokens ** 0.383 (arXiv 2505.13738) and the rate with the square root of the batch.
BATCH_EXPONENT = 0.383


@dataclass(frozen=True)
class Recipe:
    optimizer: Optimizer
    schedule: Schedule
    batch_tokens: int
    warnings: tuple[str, ...] = ()


def carry_over(reference: RunSpec, shape: Architecture, tokens: int, sequence_length: int) -> Recipe:
    """The recipe of a proxy run, carried to another width and horizon.

    Width: maximal-update parametrization as the proxies were trained with (hidden matrices x base width / width;
    arXiv 2203.03466, for experts 2508.09752). Horizon: batch ~ tokens^0.383, rate ~ sqrt(batch) (arXiv 2505.13738).
    With the standard parametrization the width rule is an assumption, and the result says so.
    """
    training = reference.training
    growth = (tokens / training.tokens) ** BATCH_EXPONENT
    batch_tokens = round_batch(training.batch_tokens * growth, sequence_length)
    rate = training.learning_rate * (batch_tokens / training.batch_tokens) ** 0.5
    hidden_rate = rate * training.base_hidden_size / shape.hidden_size
    warnings = [
        "learning rate and batch are carried over by rule from the proxies' recipe, not fitted to a sweep of rates"
    ]
    if training.parametrization != "mup":
        warnings.append(
            "the proxies used the standard parametrization; the rate's fall with width is assumed, not measured"
        )
    source = (
        f"proxy {reference.run_id}: rate {training.learning_rate:.4g} at hidden_size {training.base_hidden_size} and "
        f"{training.batch_tokens} tokens a batch; x base / hidden_size, x sqrt(batch), batch ~ tokens^{BATCH_EXPONENT}"
    )
    optimizer = Optimizer(
        learning_rate=hidden_rate,
        embedding_learning_rate=rate * training.embedding_rate_factor if training.parametrization == "mup" else None,
        source=source,
        beta1=training.beta1,
        beta2=training.beta2,
        weight_decay=training.weight_decay,
        grad_clip=training.grad_clip,
        init_std=shape.hidden_size**-0.5,
    )
    schedule = Schedule(
        kind=training.schedule,
        warmup_tokens=int(training.warmup_fraction * tokens),
        decay_tokens=int(
            (training.decay_fraction if training.schedule == "wsd" else 1 - training.warmup_fraction) * tokens
        ),
        final_learning_rate_fraction=training.final_learning_rate_fraction,
    )
    return Recipe(optimizer, schedule, batch_tokens, tuple(warnings))


def round_batch(batch_tokens: float, sequence_length: int) -> int:
    """Whole sequences, a multiple of 8 of them from 8 up, so that they divide over devices."""
    sequences = batch_tokens / sequence_length
    if sequences < 8:
        return max(round(sequences), 1) * sequence_length
    return round(sequences / 8) * 8 * sequence_length
