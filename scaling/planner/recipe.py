"""Learning rate, batch and schedule of a plan: carried over from the proxies, or by published rules."""

from dataclasses import dataclass

from fits.laws.coefficients import published
from scaling.plan import BatchRamp, Optimizer, Schedule
from trainer_small.architecture import Architecture
from trainer_small.config import RunSpec
from trainer_small.training_config import TrainingConfig

# Optimal batch grows as tokens ** 0.383 (arXiv 2505.13738) and the rate with the square root of the batch.
BATCH_EXPONENT = 0.383
# AdamW's time scale as a share of the run falls with tokens per parameter (the same paper, eq. 4).
TIMESCALE_EXPONENT = -0.527
_WARMUP_STEPS = 2000
"""As DeepSeek-V3 (arXiv 2412.19437, section 4.2)."""


@dataclass(frozen=True)
class Recipe:
    optimizer: Optimizer
    schedule: Schedule
    batch_tokens: int
    warnings: tuple[str, ...] = ()


def carry_over(
    reference: RunSpec, shape: Architecture, tokens: int, sequence_length: int, *, devices: int = 1
) -> Recipe:
    """The recipe of a proxy run, carried to another width and horizon.

    Width: maximal-update parametrization as the proxies were trained with (hidden matrices x base width / width;
    arXiv 2203.03466, for experts 2508.09752). Horizon: batch ~ tokens^0.383, rate ~ sqrt(batch); the share of the run
    over which the weights forget ~ (tokens / active parameters)^-0.527 (arXiv 2505.13738).
    With the standard parametrization the width rule is an assumption, and the result says so.

    Args:
        devices: GPUs that the batch is to be divided over.
    """
    training = reference.training
    growth = (tokens / training.tokens) ** BATCH_EXPONENT
    batch_tokens = round_batch(training.batch_tokens * growth, sequence_length, devices)
    rate = training.learning_rate * (batch_tokens / training.batch_tokens) ** 0.5
    hidden_rate = rate * training.base_hidden_size / shape.hidden_size
    steps = max(tokens // batch_tokens, 1)
    timescale = _timescale(training) * _tokens_per_parameter(shape, tokens, reference) ** TIMESCALE_EXPONENT
    warnings = [
        "learning rate and batch are carried over by rule from the proxies' recipe, not fitted to a sweep of rates"
    ]
    if training.parametrization != "mup":
        warnings.append(
            "the proxies used the standard parametrization; the rate's fall with width is assumed, not measured"
        )
    if training.optimizer != "adamw":
        warnings.append(f"the proxies were trained with {training.optimizer}; the plan's recipe is AdamW's part of it")
    source = (
        f"proxy {reference.run_id}: rate {training.learning_rate:.4g} at hidden_size {training.base_hidden_size} and "
        f"{training.batch_tokens} tokens a batch; x base / hidden_size, x sqrt(batch), batch ~ tokens^{BATCH_EXPONENT}"
        f"; weight decay so that the weights forget over {timescale:.2g} of the run, by its rate"
    )
    optimizer = Optimizer(
        learning_rate=hidden_rate,
        embedding_learning_rate=rate * training.embedding_rate_factor if training.parametrization == "mup" else None,
        source=source,
        beta1=training.beta1,
        beta2=training.beta2,
        weight_decay=1 / (hidden_rate * steps * timescale) if timescale else 0.0,
        grad_clip=training.grad_clip or 1e9,  # 0 turned clipping off
        init_std=shape.hidden_size**-0.5,
    )
    warmup = training.warmup_steps / training.steps
    schedule = Schedule(
        kind=training.schedule,
        warmup_tokens=int(warmup * tokens),
        decay_tokens=int((training.decay_fraction if training.schedule == "wsd" else 1 - warmup) * tokens),
        final_learning_rate_fraction=training.final_learning_rate_fraction,
    )
    return Recipe(optimizer, schedule, batch_tokens, warnings=tuple(warnings))


def _timescale(training: TrainingConfig) -> float:
    """The share of a proxy's run over which its weights forget, 1 / (rate x decay x steps); 0 without decay."""
    if training.weight_decay_timescale:
        return training.weight_decay_timescale
    decayed = training.learning_rate * training.weight_decay * training.steps
    return 1 / decayed if decayed else 0.0


def _tokens_per_parameter(shape: Architecture, tokens: int, reference: RunSpec) -> float:
    """The plan's tokens per active parameter over the proxy's."""
    proxy = reference.training.tokens_trained / reference.architecture.params_active
    return tokens / shape.params_active / proxy


def published_recipe(train_flops: float, tokens: int, sequence_length: int, *, devices: int = 1) -> Recipe:
    """The recipe of Tian et al. (arXiv 2507.17702): rate and batch as powers of compute; WSD.

    Args:
        devices: GPUs that the batch is to be divided over.
    """
    rate = float(published("tian-learning-rate").evaluate(C=train_flops).value)
    batch = float(published("tian-batch").evaluate(C=train_flops).value)
    batch_tokens = round_batch(min(batch, tokens / 100), sequence_length, devices)
    optimizer = Optimizer(
        learning_rate=rate,
        source=f"{published('tian-learning-rate').source}; weight decay, betas, clipping and init as in its runs",
    )
    schedule = Schedule(warmup_tokens=min(_WARMUP_STEPS * batch_tokens, tokens // 100), decay_tokens=tokens // 5)
    return Recipe(optimizer, schedule, batch_tokens)


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
