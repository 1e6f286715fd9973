"""What a run leaves behind: ``result.json``. Nothing here imports torch."""

from pathlib import Path
from typing import Literal

from fits.schema import Schema
from trainer_small.config import RunConfig

Status = Literal["done", "diverged", "failed", "interrupted"]


class Counts(Schema):
    """By the words of the design: trainable parameters, and training FLOPs with causal attention.

    ``tokens`` and ``train_flops`` are of the whole horizon; the two ``_spent`` are what this run did itself, which is
    less for a branch of a trunk.
    """

    params_total: int
    params_active: int
    params_active_non_embedding: int
    multi_token_params: int
    """Of the multi-token-prediction modules, apart from all other counts; so are their FLOPs."""
    activation_ratio: float
    granularity: float
    flops_per_token: int
    multi_token_flops_per_token: int
    tokens: int
    epochs: float
    train_flops: int
    tokens_spent: int
    train_flops_spent: int
    train_bytes: int
    """UTF-8 bytes of the training text seen, at the mean bytes per token of the training split."""


class SourceUse(Schema):
    """What a run took from one token folder."""

    name: str
    corpus_sha256: str
    share: float
    """Of the training tokens, as asked for."""
    tokens: int
    unique_tokens: int
    epochs: float
    """Passes over ``unique_tokens``: above 1 the run has seen text again."""


class GroupLosses(Schema):
    """On the fixed validation text, or the part of it that is one group's.

    The standard errors are over its documents: how far another text would move the loss. Runs on the same text
    share that error, so the difference of two of them is known far better.
    """

    loss: float
    """Nats per token, end-of-text tokens in."""
    loss_standard_error: float
    bits_per_byte: float
    bits_per_byte_standard_error: float
    unigram_loss: float
    """Nats per token of a model that knows only how often each token occurs in the training text; ``loss`` less this
    is the unigram-normalised loss (arXiv 2407.13623), which compares vocabularies."""
    validation_tokens: int
    validation_bytes: int
    validation_documents: int


class Losses(GroupLosses):
    """On all of the validation text."""

    train_loss: float
    """Mean training loss of the last tenth of the steps, nats per token."""
    groups: dict[str, GroupLosses]
    """By what documents belong to: languages, say."""


class Evaluated(Schema):
    """A point of the validation curve."""

    step: int
    tokens: int
    loss: float
    loss_standard_error: float
    bits_per_byte: float


class Speed(Schema):
    wall_seconds: float
    """Training and evaluation, without interruptions."""
    train_seconds: float
    evaluation_seconds: float
    device_seconds: float
    """Of training: on GPUs their number times the time; on a CPU the processor time of all threads."""
    tokens_per_second: float
    """Training alone."""
    achieved_flops_per_second: float
    gemm_flops_per_second: float
    """What a large product of the run's type reached on the same devices."""
    mfu: float
    """Achieved over what the product reached."""
    mfu_data_sheet: float | None
    """Achieved over ``peak_flops`` of the config, where it is given."""
    peak_memory_bytes: int
    """Largest resident memory of the process during the run; on CUDA, memory of the device."""


class Router(Schema):
    """Load on the validation text with the final weights."""

    entropy: float
    """Entropy of the load over experts, as a share of its largest value, mean over layers: 1 is even."""
    max_violation: float
    """Largest load over the mean load, less 1, of the worst layer (arXiv 2408.15664): 0 is even."""
    dead_experts: int
    """Experts of all layers that no token chose."""


class Health(Schema):
    gradient_norm_mean: float
    gradient_norm_max: float
    gradient_norm_last: float
    """Mean of the last tenth of the steps."""
    clipped_steps: int
    """Steps whose gradient was above ``grad_clip`` and was scaled down."""
    spikes: int
    """Steps whose loss stood more than 6 standard deviations above the 128 before it."""
    spike_steps: tuple[int, ...]
    """The first ten of them."""


class Git(Schema):
    """State of the source that trained the run."""

    commit: str
    changed: bool
    """Whether tracked files differed from the commit."""


class Machine(Schema):
    device: str
    threads: int
    processes: int
    """Of one run, each with a part of every batch."""
    dtype: str
    attention: str | None = None
    """The kernel of attention: ``explicit`` and ``cpu`` on a CPU, ``flash``, ``efficient`` or ``flex`` on a GPU."""
    matmul_precision: str
    """Kernel choice of float32 products: part of what decides the rounding."""
    deterministic: bool
    """Whether torch was held to deterministic algorithms."""
    platform: str
    python: str
    torch: str
    numpy: str
    cuda: str | None
    program: str
    """Version of this program."""
    git: Git | None


class Result(Schema):
    """One run's outcome. ``done`` and ``diverged`` are final; ``failed`` is tried again by the same command."""

    schema_version: Literal[2] = 2
    run_id: str
    status: Status
    reason: str | None = None
    """Why it is not done, in one sentence."""
    step: int = 0
    steps: int
    seed: int
    config_sha256: str
    corpus_sha256: str | None = None
    tokenizer_sha256: str | None = None
    data: tuple[SourceUse, ...] = ()
    counts: Counts | None = None
    losses: Losses | None = None
    evaluations: tuple[Evaluated, ...] = ()
    """The validation curve, the end in; a branch's begins where it left its trunk."""
    warnings: tuple[str, ...] = ()
    """What a reader of these numbers should know: repeated text, windows longer than documents."""
    speed: Speed | None = None
    router: Router | None = None
    health: Health | None = None
    machine: Machine | None = None


def result_path(directory: Path) -> Path:
    return directory / "result.json"


def read_result(directory: Path) -> Result | None:
    """The run's result, or ``None`` when it has not ended."""
    path = result_path(directory)
    return Result.load(path) if path.is_file() else None


def is_final(directory: Path) -> bool:
    """Whether the run needs no more training: it is done, or diverged."""
    result = read_result(directory)
    return result is not None and result.status in ("done", "diverged")


def write_failure(directory: Path, config: RunConfig, reason: str, step: int = 0) -> Result:
    """Record that the run failed and why, so that the reason stays in its folder."""
    result = Result(
        run_id=config.run_id,
        status="failed",
        reason=reason,
        step=step,
        steps=config.training.steps,
        seed=config.seed,
        config_sha256=config.digest(),
    )
    result.save(result_path(directory))
    return result
