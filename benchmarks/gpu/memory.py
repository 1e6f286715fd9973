"""What the six shapes take of a GPU's memory by the parts their batch is cut into, predicted on a machine without one.

python benchmarks/gpu/memory.py [--only 512x8]
"""

import argparse

from benchmarks.gpu.shapes import run_config, six_shapes
from scaling.commands.console import print_table
from trainer_small.steps.memory_estimate import largest_micro_batch, memory_estimate, with_micro_batch

_PARTS = (4096, 16384, 65536)
_GIB = 2**30
_FREE = {"H100": 78.6 * _GIB, "H200": 139.2 * _GIB}
"""Free memory of an idle card, CUDA's context out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    options = parser.parse_args()
    rows = []
    for shape in six_shapes():
        if options.only not in shape.name:
            continue
        run = run_config(shape, "cuda", compiled=False)
        parts = [memory_estimate(with_micro_batch(run, tokens), cuda=True) for tokens in _PARTS]
        largest = [largest_micro_batch(run, free) for free in _FREE.values()]
        rows.append(
            [
                shape.name,
                f"{(2 * parts[0].weights + parts[0].optimizer) / _GIB:.1f}",
                *(f"{part.total / _GIB:.1f}" for part in parts),
                *("-" if tokens is None else f"{tokens:,}" for tokens in largest),
            ]
        )
    print_table(
        ["shape", "state", *(f"{tokens:,} tokens" for tokens in _PARTS), *(f"{name} takes" for name in _FREE)],
        rows,
        title="GiB predicted: weights, gradients and moments (state), and all with so many tokens at a time; bf16",
    )


if __name__ == "__main__":
    main()
