"""Training speed on one GPU, in one command: six shapes beside transformers, then many tiny models at once.

python benchmarks/gpu/train.py [--out gpu.json]; on a machine without a GPU, to see that it works:
python benchmarks/gpu/train.py --device cpu --tiny
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import many_small
import torch
from shapes import Shape, run_config, six_shapes, small_shapes, tiny
from subjects import ours, theirs
from timing import gemm_flops, seconds_of, time_split

from fits.errors import UserError
from scaling.console import note, print_table, say
from scaling.hardware import gpus
from trainer_small.steps.footprint import footprint


@dataclass
class Row:
    shape: str
    trainer: str
    micro_batch_tokens: int
    tokens_per_second: float
    flops_per_second: float
    mfu: float | None
    """Of the data sheet's bf16 peak; None where the device is not in ``scaling/hardware.yaml``."""
    of_gemm: float
    """Of the best product measured in this run."""
    goal: float | None
    peak_gib: float | None
    predicted_gib: float | None
    split: dict[str, float]


def data_sheet_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((each.peak_flops for key, each in gpus().items() if key in name), None)


def measure(shape: Shape, trainer: str, device: torch.device, gemm: float, options: argparse.Namespace) -> Row | None:
    """One row: the largest micro-batch that fits; None when none does."""
    micro = shape.micro_batch_tokens
    while micro >= shape.sequence_length:
        try:
            return _measure(shape, trainer, micro, device, gemm, options)
        except torch.OutOfMemoryError:
            note(f"{shape.name}, {trainer}: {micro} tokens at a time do not fit")
        torch.compiler.reset()
        torch.cuda.empty_cache()
        micro //= 2
    return None


def _measure(
    shape: Shape, trainer: str, micro: int, device: torch.device, gemm: float, options: argparse.Namespace
) -> Row:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    compiled = "eager" not in trainer and not options.tiny
    if "graphs" in trainer:  # a graph writes its gradients to one place: the whole batch is one part
        shape = replace(shape, batch_tokens=micro)
    if trainer.startswith("HF"):
        step = theirs(shape, device, compiled=compiled, micro=micro)
    else:
        step = ours(shape, device, compiled=compiled, micro=micro, graphs="graphs" in trainer and on_gpu)
    seconds = seconds_of(step, device, steps=options.steps, warm_up=2)
    split = time_split(step, device)
    peak, sheet = (torch.cuda.max_memory_allocated(device) if on_gpu else None), data_sheet_flops(device)
    tokens = shape.batch_tokens / seconds
    flops = tokens * shape.architecture.flops_per_token(shape.sequence_length)
    predicted = None
    if not trainer.startswith("HF"):
        run = run_config(shape, device.type, compiled=compiled, micro_batch_tokens=micro)
        predicted = footprint(run, cuda=on_gpu).tensors / 2**30
    return Row(
        shape=shape.name,
        trainer=trainer,
        micro_batch_tokens=micro,
        tokens_per_second=tokens,
        flops_per_second=flops,
        mfu=flops / sheet if sheet else None,
        of_gemm=flops / gemm,
        goal=shape.goal,
        peak_gib=peak / 2**30 if peak else None,
        predicted_gib=predicted,
        split=split,
    )


def trainers(shape: Shape) -> list[str]:
    names = ["ours eager", "ours compiled", "HF compiled"]
    return names if shape.hidden_size > 512 else [*names, "ours graphs"]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes for a test; nothing is compiled")
    parser.add_argument("--only", default="", help="shapes whose name contains this, such as 512x8")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--part", default="both", choices=("both", "shapes", "small"))
    parser.add_argument("--out", type=Path, help="also write all numbers as JSON")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU here; run this on one, or with --device cpu --tiny to see that it works.")
    device = torch.device(options.device)
    gemm = gemm_flops(device, 256 if options.tiny else 8192)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    sheet = data_sheet_flops(device)
    found: dict[str, object] = {
        "machine": machine,
        "torch": torch.__version__,
        "gemm_flops": gemm,
        "data_sheet_flops": sheet,
    }
    say(f"{machine}, torch {torch.__version__}; measured bf16 product {gemm / 1e12:.4g} TFLOP/s")
    if options.part != "small":
        chosen = [shape for shape in six_shapes() if options.only in shape.name]
        chosen = [tiny(shape) for shape in chosen][:1] if options.tiny else chosen
        rows = [
            row
            for shape in chosen
            for trainer in trainers(shape)
            if (row := measure(shape, trainer, device, gemm, options)) is not None
        ]
        _print_rows(rows)
        found["shapes"] = [asdict(row) for row in rows]
    if options.part != "shapes":
        chosen = [shape for shape in small_shapes() if options.only in shape.name]
        chosen = [tiny(shape) for shape in chosen][:1] if options.tiny else chosen
        small = [row for shape in chosen for row in many_small.measure(shape, device, options.steps, tiny=options.tiny)]
        many_small.print_rows(small)
        found["small"] = [asdict(row) for row in small]
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _print_rows(rows: list[Row]) -> None:
    base = {row.shape: row.tokens_per_second for row in rows if row.trainer == "HF compiled"}
    columns = ["shape", "trainer", "tokens/s", "MFU", "goal", "of GEMM", "/ HF", "GiB", "said"]
    print_table(
        columns,
        [
            [
                row.shape,
                row.trainer,
                f"{row.tokens_per_second:,.0f}",
                _percent(row.mfu),
                _percent(row.goal),
                _percent(row.of_gemm),
                f"{row.tokens_per_second / base[row.shape]:.2f}" if row.shape in base else "-",
                "-" if row.peak_gib is None else f"{row.peak_gib:.1f}",
                "-" if row.predicted_gib is None else f"{row.predicted_gib:.1f}",
            ]
            for row in rows
        ],
        title="one model",
    )
    for row in rows:
        parts = ", ".join(f"{kind} {share:.0%}" for kind, share in row.split.items() if share >= 0.005)
        say(f"{row.shape}, {row.trainer}: {parts}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
