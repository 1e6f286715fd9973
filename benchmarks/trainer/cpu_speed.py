"""Training speed on a CPU: this trainer beside transformers and nanoMoE, same architecture, same weights, interleaved.

Run it on an otherwise idle machine, one part at a time:
python benchmarks/trainer/cpu_speed.py [--part reference|batch|experts|vocabulary|stack|nanomoe] [--types fp32,bf16]
The vocabulary part runs in this process: GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before it gives both sides our pages.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.trainer.cpu_subjects import COMMON, Setting, serve
from benchmarks.trainer.forms import LATENT
from scaling.commands.console import print_table, say
from trainer_small.architecture import Architecture
from trainer_small.machine.memory import LARGE_PAGES
from trainer_small.machine.numerics import processor_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS_A_TURN = 4


def interleaved(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of a step; the subjects take turns of some steps, so that a busy moment meets all of them.

    The first step of a turn is not counted: memory that a subject gave back, and another has had since, comes slowly.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-(-rounds // STEPS_A_TURN) + 1):
        for name, step in steps.items():
            seconds = [step() for _ in range(STEPS_A_TURN + 1)]
            if turn:  # the first turn compiles
                times[name] += seconds[1:]
    return {name: statistics.median(values) for name, values in times.items()}


class Processes:
    """One process with our setting of memory and one as it comes; only one works at a time."""

    def __init__(self, names: list[str], setting: Setting) -> None:
        self._connections = {}
        self._processes = []
        context = multiprocessing.get_context("spawn")
        groups = {
            own: [name for name in names if (name.startswith("ours") or "our settings" in name) == own]
            for own in (True, False)
        }
        for own, group in groups.items():
            if not own and not group:
                continue
            here, there = context.Pipe()
            os.environ |= LARGE_PAGES if own else {}
            process = context.Process(target=serve, args=(there, group, setting), daemon=True)
            process.start()
            for key in LARGE_PAGES:
                os.environ.pop(key, None)
            self._processes.append(process)
            self._connections |= dict.fromkeys(["", *group] if own else group, here)

    def ask(self, name: str) -> float:
        self._connections[name].send(name)
        return self._connections[name].recv()

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def compare(title: str, names: list[str], setting: Setting, rounds: int) -> None:
    """One table: the named subjects on one architecture and batch."""
    processes = Processes(names, setting)
    before = processes.ask("")
    medians = interleaved({name: lambda name=name: processes.ask(name) for name in names}, rounds)
    peak = max(before, processes.ask(""))
    processes.close()
    tokens = setting.batch * setting.length
    flops = setting.architecture.flops_per_token(setting.length) * tokens
    fastest = min(seconds for name, seconds in medians.items() if name.startswith("ours"))
    rows = [
        [
            name,
            round(seconds * 1e3, 1),
            round(tokens / seconds),
            f"{seconds / fastest:.2f}",
            "-" if name == "nanoMoE" else f"{flops / seconds / peak:.0%}",
        ]
        for name, seconds in medians.items()
    ]
    say()
    print_table(
        ["trainer", "ms a step", "tokens/s", "time / ours", "of GEMM peak"],
        rows,
        title=f"{title}, {str(setting.dtype)[6:]}, {tokens:,} tokens; GEMM peak {peak / 1e9:.0f} GFLOP/s",
    )


def vocabulary(dtype: torch.dtype, vocab_size: int, rounds: int, tokens: int = 4096, width: int = 256) -> None:
    """The loss with its gradients against the plain one, which has a full table of logits."""
    from trainer_small.machine.live_bytes import LiveBytes
    from trainer_small.steps.loss import linear_cross_entropy

    torch.set_float32_matmul_precision("medium" if dtype == torch.float32 else "highest")
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    head = (torch.randn(vocab_size, width) * width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab_size, (tokens,))

    def plain() -> None:
        logits = (hidden @ head.to(hidden.dtype).T).float()
        torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets), (hidden, head))

    def own(compiled: bool) -> Callable[[], None]:
        return lambda: torch.autograd.grad(
            linear_cross_entropy(hidden, head, targets, compiled=compiled), (hidden, head)
        )  # type: ignore[return-value]

    forms: dict[str, Callable[[], Any]] = {"plain": plain, "ours eager": own(False), "ours compiled": own(True)}
    medians = interleaved({name: lambda form=form: _seconds(form) for name, form in forms.items()}, rounds)
    extra = {}
    for name in ("plain", "ours eager"):  # the compiled form holds the same buffers, and the eager one small ones more
        with LiveBytes() as live:
            _ = hidden.view(-1), head.view(-1)  # counted where they are first seen
            inputs = live.now
            forms[name]()
        extra[name] = live.most - inputs - head.nbytes  # the head's gradient is what both must give
    extra["ours compiled"] = extra["ours eager"]
    rows = [[name, round(medians[name] * 1e3), round(extra[name] / 2**20)] for name in forms]
    for row in rows:
        row += [f"{row[1] / rows[0][1]:.2f}", f"{row[2] / rows[0][2]:.3f}"]
    say()
    print_table(
        ["loss", "ms", "extra MiB", "time / plain", "memory / plain"],
        rows,
        title=f"vocabulary {vocab_size:,}, {tokens:,} tokens, {str(dtype).removeprefix('torch.')}, "
        + ("pages of 2 MiB" if LARGE_PAGES.items() <= os.environ.items() else "pages as they come"),
    )


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", default="reference", choices=("reference", "batch", "experts", "vocabulary", "stack", "nanomoe")
    )
    parser.add_argument("--types", default="fp32,bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each that are counted, in whole turns")
    parser.add_argument("--only", help="these trainers alone, such as 'ours compiled;HF as shipped'")
    parser.add_argument("--nanomoe", type=Path, help="a clone of wolfecameron/nanoMoE, for --part nanomoe")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    say(
        f"{processor_name()}, {options.threads} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {platform.system()}; medians of {options.rounds} steps, A.X K1's form"
    )
    types = options.types.split(",")
    ours, shipped = "ours compiled", "HF as shipped"
    everyone = [ours, "ours eager", shipped, "HF, our settings", "HF compiled", "HF compiled, our settings"]

    def tables(title: str, names: list[str], batch: int, **changes: int) -> None:
        architecture = Architecture.parse(COMMON | LATENT | changes, title)
        for name in types:
            setting = Setting(architecture, DTYPES[name], batch, 256, options.threads, options.nanomoe)
            chosen = [each for each in names if not options.only or each in options.only.split(";")]
            compare(title, chosen, setting, options.rounds)

    if options.part == "reference":
        tables("reference", everyone, 8)
    elif options.part == "batch":
        tables("large batch", [ours, shipped, "HF compiled"], 32)
    elif options.part == "experts":
        for experts in (64, 128):
            tables(f"{experts} experts", [ours, shipped, "HF, our settings"], 8, num_experts=experts)
    elif options.part == "nanomoe":
        if options.nanomoe is None:
            parser.error("--part nanomoe needs --nanomoe, a clone of wolfecameron/nanoMoE")
        tables("nanoMoE", [ours, "nanoMoE"], 8)
    elif options.part == "vocabulary":
        for vocab_size in (32768, 163_840):
            for name in types:
                vocabulary(DTYPES[name], vocab_size, options.rounds)
    else:
        from benchmarks.trainer.cpu_stack import stack_table

        stack_table(options.rounds, {"fp32": "float32", "bf16": "bfloat16"}[types[0]])


if __name__ == "__main__":
    main()
