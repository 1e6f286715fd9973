"""Plans with a predicted curve, for the tests and the benchmark of track."""

from typing import Any

import numpy as np

from scaling.plan import TrainingPlan
from tests.scaling.plans import DEEPSEEK_LIKE, training_plan

TOKENS = 2_000_000_000_000


def promised_plan(*, law_sd: float = 0.005, run_sd: float = 0.003, **changes: Any) -> TrainingPlan:
    """A plan of 2e12 tokens with a curve 1.6 + 400 tokens^-0.25, and errors of the law as fractions of the loss."""
    tokens = np.unique(np.geomspace(TOKENS / 100, TOKENS, 13).astype(int))
    values = 1.6 + 400 * tokens**-0.25
    tilt = np.log(tokens / tokens[-1])
    modes = np.stack([law_sd * values, law_sd / 4 * values * (1 + tilt / 2), law_sd / 8 * values * tilt])
    half = 1.645 * np.sqrt((modes**2).sum(axis=0))
    curve = [
        {"tokens": int(count), "value": value, "low": value - each, "high": value + each, "modes": tuple(mode)}
        for count, value, each, mode in zip(tokens, values, half, modes.T, strict=True)
    ]
    prediction = {"quantity": "loss", "unit": "nats per token", "value": values[-1], "low": values[-1] - half[-1],
                  "high": values[-1] + half[-1], "interval": "test", "law": "test", "source": "test", "curve": curve,
                  "run_sd": run_sd * values[-1]}  # fmt: skip
    schedule = {"warmup_tokens": TOKENS // 200, "decay_tokens": TOKENS // 5}
    return training_plan(DEEPSEEK_LIKE, tokens=TOKENS, sequence_length=4096, batch_tokens=4096 * 4096,
                         schedule=schedule, prediction=prediction, **changes)  # fmt: skip
