"""Part 4: a real sweep by the project's own commands, with Muon and with AdamW: designed for the time that is left,
trained at the same time by several processes on the one card, tabulated, fitted.

The text is what every machine has that can run this: sources of Python and of installed packages.
"""

import argparse
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.gpu.record import Record, arguments

ROOT = Path(__file__).parents[2]
OPTIMIZERS = ("muon", "adamw")
TABLE = "gpu_proxy_runs.csv"
_PACKAGES = ("sympy", "pandas", "scipy", "torch", "transformers")
_GRID = "num_experts == 8 and granularity == 2 and vocab_size == {vocab_size}"
"""The size x horizon runs of the design ``moe-bits``."""


@dataclass(frozen=True)
class Setting:
    hidden_sizes: str
    vocab_sizes: tuple[int, int]
    sequence_length: int
    batch_tokens: int
    text_bytes: int
    first_flops: float
    """Of one sweep; what it takes by ``sweep cost`` says how many fit the time."""
    workers: int
    """Processes of each of the two sweeps."""
    gain: float
    """How much faster all those processes are together than one alone: a guess until it is measured."""
    bootstrap: int


_CARD = Setting("128,192,256", (2048, 4096), 512, 8192, 64 * 10**6, 1e15, 4, 2.5, 1000)
_TINY = Setting("32,48", (384, 512), 32, 128, 6 * 10**5, 1.2e11, 1, 2.0, 50)


class Sweep:
    def __init__(self, options: argparse.Namespace) -> None:
        self.record, self.work, self.device = Record(options), options.work, options.device
        self.setting = _TINY if options.tiny else _CARD
        self.table = options.out.with_name(TABLE)
        self.environment = dict(os.environ)
        if self.device == "cuda":
            self.environment.setdefault("CUDA_VISIBLE_DEVICES", "0")

    def walk(self) -> None:
        facts = {"optimizers": OPTIMIZERS, "hidden_sizes": self.setting.hidden_sizes}
        self.record.facts(**facts, sequence_length=self.setting.sequence_length, batch_tokens=self.setting.batch_tokens)
        if not (self._try("text and vocabularies", self.text) and self._try("design", self.design)):
            return
        self._try("training", self.train)  # what has ended is tabulated, whatever stopped the rest
        if self._try("run table", self.tabulate):
            for optimizer in OPTIMIZERS:
                self._try(f"fit, {optimizer}", lambda optimizer=optimizer: self.fit(optimizer))

    def _try(self, name: str, step: Callable[[], None]) -> bool:
        return self.record.attempt(name, step, limit=self.record.left() - 2)

    def text(self) -> None:
        documents = self.work / "packages" / "sources.jsonl"  # whose folder's name is the group's in the run table
        documents.parent.mkdir(exist_ok=True)
        with documents.open("w", encoding="utf-8") as handle:
            for text in _sources(self.setting.text_bytes, _TINY is self.setting):
                handle.write(json.dumps({"text": text}) + "\n")
        sources = [str(documents)] if self.setting is _TINY else ["python:stdlib", str(documents)]
        self.scaling("corpus", *sources, "--out", "corpus")
        sizes = self.setting.vocab_sizes
        more = "--max-size", str(max(sizes)), "--sizes", ",".join(map(str, sizes)), "--out", "study"
        self.scaling("vocab", "study", sources[0], *more)

    def design(self) -> None:
        """Both sweeps, as large as the time allows by the speed of the slower one."""
        for optimizer in OPTIMIZERS:
            recipe = {
                "training": {
                    "optimizer": optimizer,
                    "sequence_length": self.setting.sequence_length,
                    "batch_tokens": self.setting.batch_tokens,
                },
                "evaluation": {"validation_bytes": 10**4 if self.setting is _TINY else 10**6},
                "device": self.device,
            }
            (self.work / f"{optimizer}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        flops = self.setting.first_flops
        self._design(OPTIMIZERS[0], flops)
        if self.setting is not _TINY:
            cost = json.loads(self.scaling("sweep", "cost", f"sweep_{OPTIMIZERS[0]}.yaml", "--json"))
            alone = len(OPTIMIZERS) * sum(run["seconds"] for run in cost["runs"])
            flops *= self.setting.gain * (self._training_seconds() - 20) / alone  # the processes start in 20 s
            self.record.facts(seconds_alone=alone, first_flops=self.setting.first_flops)
        try:
            self._design(OPTIMIZERS[0], flops)
        except RuntimeError:  # below what the design can be: then the first one, as far as it comes
            flops = self.setting.first_flops
            self._design(OPTIMIZERS[0], flops)
        for optimizer in OPTIMIZERS[1:]:
            self._design(optimizer, flops)
        self.record.facts(budget_flops=flops)

    def _training_seconds(self) -> float:
        return self.record.left() - 20  # for the table, the fits, and the stop in good order

    def _design(self, optimizer: str, flops: float) -> None:
        self.scaling(
            *("sweep", "design", "--corpus", "corpus", "--study", "study"),
            *("--vocab-sizes", ",".join(map(str, self.setting.vocab_sizes)), "--budget-flops", f"{flops:.4g}"),
            *("--hidden-sizes", self.setting.hidden_sizes, "--recipe", f"{optimizer}.yaml"),
            *("--out", f"sweep_{optimizer}.yaml"),
        )

    def train(self) -> None:
        """Both at once; what has not ended in time is stopped as by Ctrl-C."""
        started = time.monotonic()
        share = "--workers", str(self.setting.workers), "--per-gpu", str(self.setting.workers)
        running = [
            subprocess.Popen(
                self._command("sweep", "run", f"sweep_{each}.yaml", "--out", f"runs_{each}", *share),
                cwd=self.work,
                env=self.environment,
                stdout=sys.stderr,
            )
            for each in OPTIMIZERS
        ]
        end = time.monotonic() + self._training_seconds()
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            time.sleep(0.2)
        stopped = [process for process in running if process.poll() is None]
        for process in stopped:
            process.send_signal(signal.SIGINT)
        for process in stopped:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.record.facts(training_seconds=time.monotonic() - started, stopped=bool(stopped))
        codes = [process.wait() for process in running]
        if not stopped and any(codes):
            raise RuntimeError(f"scaling sweep run ended with exit codes {codes}: see the log")

    def tabulate(self) -> None:
        """One table of both, with the optimizer as a column; and what came of all runs."""
        with self.table.open("w", encoding="utf-8", newline="") as handle:
            writer = None
            for optimizer in OPTIMIZERS:
                self.scaling("sweep", "table", f"runs_{optimizer}", "--out", f"{optimizer}.csv")
                with (self.work / f"{optimizer}.csv").open(encoding="utf-8", newline="") as rows:
                    runs = [{"optimizer": optimizer, **row} for row in csv.DictReader(rows)]
                for run in runs:
                    if writer is None:
                        writer = csv.DictWriter(handle, list(run), restval="", extrasaction="ignore")
                        writer.writeheader()
                    writer.writerow(run)
                done = [run for run in runs if run["status"] == "done"]
                best = min(done, key=lambda run: float(run["loss"]), default=None)
                self.record.row(
                    optimizer=optimizer,
                    runs=len(yaml.safe_load((self.work / f"sweep_{optimizer}.yaml").read_text())["runs"]),
                    done=len(done),
                    tokens=sum(int(run["tokens_spent"]) for run in done),
                    flops=sum(int(run["train_flops_spent"]) for run in done),
                    best_run=best and best["run_id"],
                    best_loss=best and float(best["loss"]),
                )

    def fit(self, optimizer: str) -> None:
        where = _GRID.format(vocab_size=max(self.setting.vocab_sizes))
        arguments = "--bootstrap", str(self.setting.bootstrap), "--json"
        for law, rows in (
            ("hoffmann", f"optimizer == '{optimizer}' and {where}"),
            ("moe-bits", f"optimizer == '{optimizer}'"),
        ):
            found = json.loads(self.scaling("fit", str(self.table), "--law", law, "--where", rows, *arguments))
            fits = self.record.content["facts"].get("fits", [])
            kept = {key: found[key] for key in ("law", "formula", "n_runs", "residual_scale", "parameters", "warnings")}
            self.record.facts(fits=[*fits, {"optimizer": optimizer, **kept}])

    def scaling(self, *arguments: str) -> str:
        """One command of the project, in the work folder; its standard output.

        Raises:
            RuntimeError: it failed; with its last line.
        """
        started = time.monotonic()
        name = " ".join(arguments[: 2 if arguments[0] in ("sweep", "vocab") else 1])
        done = subprocess.run(
            self._command(*arguments), cwd=self.work, env=self.environment, capture_output=True, text=True
        )
        sys.stderr.write(f"$ scaling {' '.join(arguments)}\n{done.stderr}")
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
            raise RuntimeError(f"scaling {name}: {lines[-1]}")
        commands = self.record.content["facts"].get("commands", [])
        self.record.facts(commands=[*commands, {"command": name, "seconds": time.monotonic() - started}])
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "scaling", *arguments]


def _sources(most_bytes: int, tiny: bool) -> Iterator[str]:
    """Source files, one document each, up to so many bytes."""
    if tiny:
        folders = [ROOT / "docs", ROOT / "trainer_small", ROOT / "scaling"]
    else:
        specs = [importlib.util.find_spec(name) for name in _PACKAGES]
        folders = [Path(spec.origin).parent for spec in specs if spec and spec.origin]
    for folder in folders:
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.md")]):
            if {"test", "tests"} & set(path.parts):
                continue
            text = path.read_text(encoding="utf-8", errors="ignore").strip()
            if text:
                most_bytes -= len(text)
                yield text
            if most_bytes < 0:
                return


def main() -> None:
    options = arguments(__doc__)
    options.work.mkdir(parents=True, exist_ok=True)
    Sweep(options).walk()


if __name__ == "__main__":
    main()
