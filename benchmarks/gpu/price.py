"""What `scaling sweep cost --gpu` takes a run's share of the peak to be, beside this project's goals; no GPU is needed.

python benchmarks/gpu/price.py [--gpu h200]
"""

import argparse
from typing import Any

from benchmarks.gpu.shapes import Shape, run_config, six_shapes
from scaling.cluster.hardware import gpu
from scaling.commands.console import print_table
from trainer_small.sweeps.gpu_step import step_time

_SMALL: dict[str, Any] = {
    "sequence_length": 512,
    "batch_tokens": 8192,
    "vocab_size": 2048,
    "num_experts": 8,
    "experts_per_token": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", default="h200")
    card = gpu(parser.parse_args().gpu)
    rows = []
    for shape in [Shape(64, 4, None, **_SMALL), Shape(128, 4, None, **_SMALL), *six_shapes()]:
        shares, bounds = [], []
        for compiled in (True, False):
            part = min(2**16, shape.batch_tokens)
            run = run_config(shape, "cuda", compiled=compiled, micro_batch_tokens=part)
            step = step_time(run, card.peak_flops, card.memory_bandwidth)
            flops = run.training.batch_tokens * run.architecture.flops_per_token(shape.sequence_length)
            shares.append(f"{flops / step.seconds / card.peak_flops:.1%}")
            bounds.append(step.bound)
        goal = "-" if shape.goal is None else f"{shape.goal:.0%}"
        rows.append([shape.name, f"{run.training.batch_tokens:,}", goal, *shares, *bounds])
    columns = ["run", "batch", "goal", "compiled", "eager", "bound, compiled", "eager"]
    print_table(columns, rows, title="model FLOPs over the data sheet's peak")


if __name__ == "__main__":
    main()
