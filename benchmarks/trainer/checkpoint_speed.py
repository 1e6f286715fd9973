"""What a checkpoint takes: written before the training goes on (CPU), or copied and then written beside it (GPU).

Seconds a GiB of state. The first column is what holds a run up on a CPU: writing with the hash made on the way, and
syncing. On a card only the copy does, here from ordinary memory. Reading the file again for its hash stands beside
it: that is what the hash on the way saves. python benchmarks/trainer/checkpoint_speed.py [--gib 1]
"""

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from scaling.commands.console import print_table
from trainer_small.machine.numerics import processor_name
from trainer_small.runs.checkpoint import CheckpointWriter, save_checkpoint
from trainer_small.runs.checkpoint_files import is_intact


def measure(folder: Path, gib: float) -> list[float]:
    """Seconds of: a write in the foreground, the copy alone, the write beside, and reading the file for its hash."""
    state = {f"part {at}": torch.randn(2**22) for at in range(round(gib * 64))}  # 16 MiB each
    before, beside = (CheckpointWriter(folder, beside=beside) for beside in (False, True))
    times = [time.perf_counter()]
    before.write(save_checkpoint, 1, state)
    times.append(time.perf_counter())
    beside.write(save_checkpoint, 2, state)
    times.append(time.perf_counter())
    beside.wait()
    times.append(time.perf_counter())
    assert all(is_intact(path) for path in folder.glob("checkpoint-*1-*.pt"))
    times.append(time.perf_counter())
    return [later - earlier for earlier, later in pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=".") as name:
            rows.append([f"{seconds / options.gib:.2f}" for seconds in measure(Path(name), options.gib)])
    heads = ["in the foreground", "copy", "written beside", "(reading back)"]
    print_table(heads, rows, title=f"{processor_name()}; seconds a GiB of state, {options.gib:g} GiB")


if __name__ == "__main__":
    main()
