"""``cpu_speed.py --part stack``: 16 tiny models one after another and as one stack, on one thread."""

import torch

from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.subjects import ours, stack_of
from benchmarks.gpu.timing import seconds_of
from scaling.commands.console import print_table, say

MODELS = 16
_COMMON = {"vocab_size": 2048, "sequence_length": 128, "batch_tokens": 512}
SHAPES = [
    Shape(64, 4, None, num_experts=8, experts_per_token=2, **_COMMON),
    Shape(64, 4, None, num_experts=32, experts_per_token=2, **_COMMON),
    Shape(128, 4, None, num_experts=16, experts_per_token=2, **_COMMON),
]


def stack_table(rounds: int, dtype: str) -> None:
    device = torch.device("cpu")
    rows = []
    for shape in SHAPES:
        # Compiled last: compiling one forgets what was compiled before, so these two take turns in rounds of their own.
        speeds = {}
        for compiled in (False, True):
            alone = ours(shape, device, compiled=compiled, dtype=dtype)
            seconds = {"alone": seconds_of(alone, device, steps=rounds, warm_up=3)}
            stack = stack_of(shape, device, MODELS, compiled=compiled, dtype=dtype)
            seconds["stacked"] = seconds_of(stack, device, steps=rounds, warm_up=3) / MODELS
            speeds |= {(name, compiled): shape.batch_tokens / each for name, each in seconds.items()}
        rows.append(
            [
                shape.name,
                *(round(speeds[name, compiled]) for compiled in (False, True) for name in ("alone", "stacked")),
                f"{speeds['stacked', False] / speeds['alone', False]:.2f}",
                f"{speeds['stacked', True] / speeds['alone', True]:.2f}",
            ]
        )
    say()
    print_table(
        ["shape", "alone", "stacked", "alone, c.", "stacked, c.", "gain", "gain, c."],
        rows,
        title=f"{MODELS} models, tokens/s of all together, {dtype}; c.: compiled",
    )
