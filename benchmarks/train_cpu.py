"""Training speed on a CPU: this trainer beside transformers and nanoMoE, same architecture, same weights, interleaved.

Run it on an otherwise idle machine, one part at a time:
python benchmarks/train_cpu.py [--part reference|batch|experts|vocabulary|stack] [--types fp32,bf16] [--threads 2]
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from train_cpu_subjects import COMMON, LATENT, Subject, nanomoe, ours, random_state, theirs

from scaling.console import print_table, say
from trainer_small.architecture import Architecture
from trainer_small.numerics import processor_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def gemm_peak(dtype: torch.dtype) -> float:
    """Best of several large products with the faster float32 kernel, FLOP/s."""
    torch.set_float32_matmul_precision("medium" if dtype == torch.float32 else "highest")
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    return 2 * 2048**3 / min(_seconds(lambda: a @ b) for _ in range(8))


def interleaved(subjects: dict[str, Subject], rounds: int, warm_up: int = 3) -> dict[str, float]:
    """Median seconds of a step; the subjects take turns, so that a busy moment meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for at in range(rounds + warm_up):
        for name, subject in subjects.items():
            seconds = subject.step()
            if at >= warm_up:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(
    title: str, architecture: Architecture, batch: int, dtype_name: str, names: list[str], options: argparse.Namespace
) -> None:
    """One table: the named subjects on one architecture and batch."""
    dtype, length = DTYPES[dtype_name], options.length
    state = random_state(architecture)
    subjects: dict[str, Subject] = {}
    for name in names:  # ours compiled first: compiling it forgets what was compiled before
        if name.startswith("ours"):
            subjects[name] = ours(architecture, dtype, state, batch, length, compiled="compiled" in name)
        elif name == "nanoMoE":
            subjects[name] = nanomoe(options.nanomoe, architecture, dtype, batch, length)
        else:
            own = "our settings" in name
            subjects[name] = theirs(architecture, dtype, state, batch, length, compiled="compiled" in name, own=own)
    before = gemm_peak(dtype)
    medians = interleaved(subjects, options.rounds)
    peak = max(before, gemm_peak(dtype))
    flops = architecture.flops_per_token(length) * batch * length
    fastest = min(seconds for name, seconds in medians.items() if name.startswith("ours"))
    rows = [
        [
            name,
            round(seconds * 1e3, 1),
            round(batch * length / seconds),
            f"{seconds / fastest:.2f}",
            "-" if name == "nanoMoE" else f"{flops / seconds / peak:.0%}",
        ]
        for name, seconds in medians.items()
    ]
    say()
    print_table(
        ["trainer", "ms a step", "tokens/s", "time / ours", "of GEMM peak"],
        rows,
        title=f"{title}, {dtype_name}, {batch * length:,} tokens; GEMM peak {peak / 1e9:.0f} GFLOP/s",
    )


def vocabulary(dtype: torch.dtype, vocab_size: int, rounds: int, tokens: int = 4096, width: int = 256) -> None:
    """The loss with its gradients against the plain one, which has a full table of logits."""
    from trainer_small.live_bytes import LiveBytes
    from trainer_small.loss import linear_cross_entropy
    from trainer_small.memory import reuse_memory

    reuse_memory()
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
    medians = interleaved({name: Subject(lambda form=form: _seconds(form)) for name, form in forms.items()}, rounds, 1)
    rows = []
    for name, form in forms.items():
        with LiveBytes() as live:
            form()
        # The head's gradient is what both must give.
        extra = live.most - head.nbytes
        rows.append([name, round(medians[name] * 1e3), round(extra / 2**20)])
    for row in rows:
        row += [f"{row[1] / rows[0][1]:.2f}", f"{row[2] / rows[0][2]:.3f}"]
    say()
    print_table(
        ["loss", "ms", "extra MiB", "time / plain", "memory / plain"],
        rows,
        title=f"vocabulary {vocab_size:,}, {tokens:,} tokens, {str(dtype).removeprefix('torch.')}",
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
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--nanomoe", type=Path, help="a clone of wolfecameron/nanoMoE, for --part nanomoe")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    say(
        f"{processor_name()}, {options.threads} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {platform.system()}; medians of {options.rounds} steps, A.X K1's form"
    )
    reference = Architecture.parse(COMMON | LATENT, "reference")
    types = options.types.split(",")
    if options.part == "reference":
        names = ["ours compiled", "ours eager", "HF as shipped", "HF compiled"]
        for name in types:
            compare("reference", reference, 8, name, [*names, "HF compiled, our settings"], options)
    elif options.part == "batch":
        for name in types:
            compare("large batch", reference, 32, name, ["ours compiled", "HF as shipped"], options)
    elif options.part == "experts":
        for experts in (64, 128):
            architecture = Architecture.parse(COMMON | LATENT | {"num_experts": experts}, "experts")
            for name in types:
                compare(f"{experts} experts", architecture, 8, name, ["ours compiled", "HF as shipped"], options)
    elif options.part == "nanomoe":
        if options.nanomoe is None:
            parser.error("--part nanomoe needs --nanomoe, a clone of wolfecameron/nanoMoE")
        for name in types:
            compare("nanoMoE", reference, 8, name, ["ours compiled", "nanoMoE"], options)
    elif options.part == "vocabulary":
        for vocab_size in (32768, 163_840):
            vocabulary(DTYPES[types[0]], vocab_size, options.rounds)
    else:
        from train_cpu_stack import stack_table

        stack_table(options.rounds, {"fp32": "float32", "bf16": "bfloat16"}[types[0]])


if __name__ == "__main__":
    main()
