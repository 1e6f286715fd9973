"""The reasons in a training plan: the promise, what being off costs, which limit binds, and what others say."""

from typing import Literal

from pydantic import Field, PositiveFloat

from fits.schema import Count, Schema


class LossPoint(Schema):
    """The predicted loss of a run that ends (decayed) at ``tokens``."""

    tokens: Count
    value: float
    low: float
    high: float
    modes: tuple[float, ...] = ()
    """How the law's errors hang together: a drawn curve is value + sum_k z_k modes[k], each z_k standard normal."""


class Prediction(Schema):
    """The promise: the loss at the end, its interval, and the curve to check the run against."""

    quantity: Literal["loss", "bits_per_byte"]
    unit: str
    value: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    interval: str
    """What low and high are: a bootstrap interval at a level, or the spread of published laws."""
    law: str
    source: str
    curve: tuple[LossPoint, ...] = ()
    run_sd: float | None = Field(default=None, ge=0)
    """Standard deviation of one run about the law's mean at the plan, in ``unit``; None when the law has no runs."""


class Extrapolation(Schema):
    """How far beyond the runs behind the law the plan reaches, in factors of ten; 0 is inside."""

    decades_in_train_flops: float
    decades: dict[str, float] = {}


class Range(Schema):
    low: float
    high: float


class Neighbour(Schema):
    """What it costs to be off: extra compute to reach the plan's loss with one choice changed."""

    change: str
    choice: str = ""
    """The number that changed, and what it became."""
    value: float | None = None
    regret: float | None
    """Fraction of extra compute; None when that shape never reaches the loss."""
    low: float | None = None
    high: float | None = None


class Binding(Schema):
    """A constraint that holds the plan back, and what loosening it by a stated amount would buy."""

    constraint: str
    limit: float
    relaxed_to: float
    gain: float
    """Compute saved, as a fraction, for the plan's loss."""
    low: float | None = None
    high: float | None = None
    shape: str
    """What the plan would become."""


class FrontPoint(Schema):
    """One plan that no other beats in loss, training compute, total parameters and decode cost at once."""

    shape: str
    loss: float
    train_flops: PositiveFloat
    params_total: Count
    params_active: Count
    tokens: Count
    decode_seconds: PositiveFloat
    """GPU-seconds to generate a million tokens."""


class Advice(Schema):
    """The same question put to another law, in its own convention."""

    law: str
    source: str
    params_active: float | None = None
    tokens: float | None = None
    learning_rate: float | None = None
    batch_tokens: float | None = None
    weight_decay: float | None = None
    loss: float | None = None
    params_total: float | None = None
    shape: str = ""
    """The best shape by this law under the plan's own constraints, when the law can price one."""
    regret: float | None = None
    """Extra compute, as a fraction, that the plan's shape would need to be as good, by this law."""
    decades_out_of_range: float | None = None
    note: str = ""


class Serving(Schema):
    """What generating costs, as a roofline of one GPU type; an assumption is part of the number."""

    gpu: str
    inference_tokens: PositiveFloat | None = None
    context: Count = Field(gt=0)
    """Tokens before the one that is generated."""
    batch: Count = Field(gt=0)
    """Sequences generated at once."""
    decode_seconds: PositiveFloat
    """GPU-seconds to generate a million tokens."""
    kv_bytes_per_token: PositiveFloat
    assumptions: str


class LayoutEstimate(Schema):
    """What the cost model says of the plan's layout; ``scaling layout`` lists all others."""

    memory_gib: PositiveFloat
    """On the fullest GPU."""
    step_seconds: PositiveFloat
    days: PositiveFloat
    """Wall time without stops."""
    tflops_per_gpu: PositiveFloat
    """Model TFLOP/s by the exact count, causal attention."""
