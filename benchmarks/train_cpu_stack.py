"""``train_cpu.py --part stack``: 16 tiny models one after another and as one stack, on one thread."""

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from shapes import Shape
from subjects import Step, ours, stack_of

from scaling.commands.console import print_table, say

MODELS = 16
_COMMON = {"vocab_size": 2048, "sequence_length": 128, "micro_batch_tokens": 512, "batch_tokens": 512}
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
            seconds = {"alone": _median(alone, rounds)}
            stack = stack_of(shape, device, MODELS, compiled=compiled, dtype=dtype)
            seconds["stacked"] = _median(stack, rounds) / MODELS
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


def _median(step: Step, rounds: int) -> float:
    times = []
    for at in range(rounds + 3):
        started = time.perf_counter()
        step()
        if at >= 3:
            times.append(time.perf_counter() - started)
    return statistics.median(times)
