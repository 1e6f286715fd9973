"""Does one learning rate do for all sizes, and do more experts help at every width? Measured on small runs.

    python benchmarks/transfer/study.py [STAGE ...] [--out FOLDER]     train what is not done, then print the tables
    ... --one    train one run (a trunk with its branches); leaves with 3 when none is left
    ... --show   train nothing, print the tables of what is there

Some hours on one core in all; the same command carries on where it was stopped.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.transfer.report import markdown, picture, read_table
from benchmarks.transfer.runs import next_run, prepare, stages
from trainer_small.config import RunConfig
from trainer_small.runs.run import run_one

ROOT = Path(__file__).resolve().parents[2]


def show(out: Path) -> None:
    """Print the tables, and write the picture and the run table of the documentation."""
    table = read_table(out)
    print(markdown(table))
    table.to_csv(ROOT / "docs" / "data" / "transfer_runs.csv", index=False, float_format="%.6g")
    picture(table, ROOT / "docs" / "images" / "transfer.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", choices=[*stages(), []], help="all when left out")
    parser.add_argument("--out", type=Path, default=ROOT / "transfer_out")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show(options.out)
        return
    torch.set_num_threads(1)
    if not (options.out / "tokens" / "manifest.json").is_file():
        prepare(options.out)
    trained = 0
    while directory := next_run(options.out, options.stages):
        if options.one and trained and RunConfig.load(directory / "config.yaml").trunk is None:
            return
        result = run_one(directory)
        loss = f"{result.losses.loss:.4f} nats a byte" if result.losses else result.reason
        print(f"{directory.name}: {result.status}, {loss}", flush=True)
        trained += 1
    if options.one:
        sys.exit(0 if trained else 3)
    show(options.out)


if __name__ == "__main__":
    main()
