"""Learning rate, batch and schedule of a plan: carried over from the proxies, or by published rules."""

from dataclasses import dataclass

from fits.coefficients import published
from scaling.plan import BatchRamp, Optimizer, Schedule
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec

# Optimal batch grows as tokens ** 0.383 (arXiv 2505.13738) and the rate with the square root of the batch.
BATCH_EXPONENT = 0.383
_WARMUP_STEPS = 2000
"""As DeepSeek-V3 (arXiv 2412.19437, section 4.2)."""


@dataclass(frozen=True)
class Recipe:
    optimizer: Optimizer
    schedule: Schedule
    batch_tokens: int
    ramp: BatchRamp | None = None
    warnings: tuple[str, ...] = ()


def carry_over(
    reference: RunSpec, shape: Architecture, tokens: int, sequence_length: int, *, devices: int = 1
) -> Recipe:
    """The recipe of a proxy run, carried to another width and horizon.

    Width: maximal-update parametrization as the proxies were trained with (hidden matrices x base width / width;
    arXiv 2203.03466, for experts 2508.09752). Horizon: batch ~ tokens^0.383, rate ~ sqrt(batch) (arXiv 2505.13738).
    With the standard parametrization the width rule is an assumption, and the result says so.
    """
    training = reference.training
    growth = (tokens / training.tokens) ** BATCH_EXPONENT
    batch_tokens = round_batch(training.batch_tokens * growth, sequence_length, devices)
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
    return Recipe(optimizer, schedule, batch_tokens, warnings=tuple(warnings))


def published_recipe(
    train_flops: float, shape: Architecture, tokens: int, sequence_length: int, *, devices: int = 1
) -> Recipe:
    """The recipe of Tian et al. (arXiv 2507.17702): rate and batch as powers of compute; WSD.

    Args:
        devices: GPUs that the batch is to be divided over.
    """
    del shape  # its rules know compute only
    rate = float(published("tian-learning-rate").evaluate(C=train_flops).value)
    batch = float(published("tian-batch").evaluate(C=train_flops).value)
    batch_tokens = round_batch(min(batch, tokens / 100), sequence_length, devices)
    optimizer = Optimizer(
        learning_rate=rate,
        source=f"{published('tian-learning-rate').source}; weight decay, betas, clipping and init as in its runs",
    )
    schedule = Schedule(warmup_tokens=min(_WARMUP_STEPS * batch_tokens, tokens // 100), decay_tokens=tokens // 5)
    ramp = batch_ramp(batch_tokens, tokens, sequence_length)
    return Recipe(optimizer, schedule, batch_tokens, ramp)


def batch_ramp(batch_tokens: int, tokens: int, sequence_length: int) -> BatchRamp | None:
    """From a quarter of the batch in three steps over the first 3 % of the tokens, as DeepSeek-V3 (arXiv 2412.19437,
    section 4.2: 3072 to 15360 sequences during 469B of 14.8T tokens); None when a quarter is no whole sequence."""
    quarter, rest = divmod(batch_tokens, 4)
    if rest or quarter % sequence_length or tokens < 100 * batch_tokens:
        return None
    ramp_tokens = int(0.03 * tokens // batch_tokens) * batch_tokens
    return BatchRamp(start_batch_tokens=quarter, increment_tokens=quarter, ramp_tokens=max(ramp_tokens, batch_tokens))


def round_batch(batch_tokens: float, sequence_length: int, devices: int = 1) -> int:
    """Whole sequences, and a number of them that divides over devices: a multiple of the largest power of two that
    moves it by at most 3 %, and of the odd part of ``devices`` where that moves it no more."""
    sequences = batch_tokens / sequence_length
    odd = devices // (devices & -devices)
    multiple = odd if odd <= sequences / 16 else 1
    while 2 * multiple <= sequences / 16:
        multiple *= 2
    return max(round(sequences / multiple), 1) * multiple * sequence_length
