"""Part 2: six models from 11M to 1.2B active parameters beside transformers': tokens a second, and where time goes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.gpu.record import Record, arguments
from benchmarks.gpu.shapes import Shape, run_config, six_shapes, tiny
from benchmarks.gpu.subjects import our_pieces, their_pieces
from benchmarks.gpu.timing import clean, gemm_flops, seconds_of, time_split
from scaling.cluster.hardware import gpus
from trainer_small.steps.memory_estimate import MemoryEstimate, largest_micro_batch, memory_estimate, with_micro_batch

TRAINERS = ("ours compiled", "transformers compiled", "ours eager")
"""The most valuable first: all shapes of one, then all of the next."""
_WARM_UP, _STEPS = 2, 3
_MOST_TOKENS = 131072
"""In one part: more fill a card no better, and take longer to measure."""
_GIB = 2**30


def data_sheet_flops(device: torch.device) -> float | None:
    """The card's dense bf16 peak; None where it is not in ``scaling/cluster/hardware.yaml``."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((each.peak_flops for key, each in gpus().items() if key in name), None)


def predict(shape: Shape, free: float) -> tuple[int, MemoryEstimate] | None:
    """The largest micro-batch by prediction, tokens, and what it is said to take; None when none fits."""
    run = run_config(shape, "cuda", compiled=True)
    micro = largest_micro_batch(run, free)
    if micro is None:
        return None
    micro = min(micro, _MOST_TOKENS)
    return micro, memory_estimate(with_micro_batch(run, micro), cuda=True)


def their_micro(shape: Shape, micro: int, said: MemoryEstimate, free: float) -> int:
    """A part that transformers' model should fit: its activations are half again ours, and it holds all logits."""
    held = 2 * said.weights + said.optimizer
    per_token = 1.5 * max(0, said.tensors - held) / micro + 14 * shape.vocab_size
    while micro > shape.sequence_length and held + per_token * micro > 0.85 * free:
        micro //= 2
    return micro


def main() -> None:
    options = arguments(__doc__)
    record, device = Record(options, clean), torch.device(options.device)
    shapes = [tiny(shape) for shape in six_shapes()[:1]] if options.tiny else six_shapes()
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else 8.0 * _GIB
    # A prediction takes some seconds of one core, during which the card can train what is predicted already.
    with ProcessPoolExecutor(len(shapes), mp_context=multiprocessing.get_context("spawn")) as pool:
        said = {shape: pool.submit(predict, shape, free) for shape in shapes}
        gemm, sheet = gemm_flops(device, 256 if options.tiny else 8192), data_sheet_flops(device)
        record.facts(gemm_flops=gemm, data_sheet_flops=sheet, free_gib=free / _GIB, warm_up=_WARM_UP, steps=_STEPS)
        for trainer in TRAINERS:
            for shape in shapes:
                for name, share in ((f"{shape.name}, {trainer}", 1), (f"{shape.name}, {trainer}, half the part", 2)):

                    def work(shape: Shape = shape, trainer: str = trainer, share: int = share) -> None:
                        found = said[shape].result()
                        if found is None:
                            raise MemoryError(f"not one sequence fits {free / _GIB:.0f} free GiB, by prediction")
                        _measure(record, shape, trainer, device, found, share, free, compiled=not options.tiny)

                    done = record.attempt(name, work, limit=60)
                    if done or "OutOfMemory" not in record.content["left_out"][-1]["why"]:
                        break


def _measure(
    record: Record,
    shape: Shape,
    trainer: str,
    device: torch.device,
    prediction: tuple[int, MemoryEstimate],
    share: int,
    free: float,
    *,
    compiled: bool,
) -> None:
    micro, said = prediction
    compiled = compiled and "compiled" in trainer
    if "transformers" in trainer:
        micro = their_micro(shape, micro, said, free)
    micro = max(shape.sequence_length, micro // share)
    if "transformers" in trainer:
        pieces = their_pieces(shape, device, compiled=compiled, micro=micro)
    else:
        pieces = our_pieces(shape, device, compiled=compiled, micro=micro)
    pieces.whole()  # compiles, and makes the moments
    part = seconds_of(pieces.part, device, steps=_STEPS, warm_up=_WARM_UP)
    end = seconds_of(pieces.end, device, steps=2, warm_up=0, before=pieces.part)
    peak = torch.cuda.max_memory_allocated(device) / _GIB if device.type == "cuda" else None
    parts = shape.batch_tokens / micro
    tokens = shape.batch_tokens / (parts * part + end)
    flops = tokens * shape.architecture.flops_per_token(shape.sequence_length)
    facts = record.content["facts"]
    row = {
        "shape": shape.name,
        "trainer": trainer,
        "batch_tokens": shape.batch_tokens,
        "micro_batch_tokens": micro,
        "part_seconds": part,
        "end_seconds": end,
        "tokens_per_second": tokens,
        "flops_per_second": flops,
        "mfu": flops / facts["data_sheet_flops"] if facts["data_sheet_flops"] else None,
        "of_gemm": flops / facts["gemm_flops"],
        "goal": shape.goal,
        "peak_gib": peak,
        "predicted_gib": said.tensors / _GIB if share == 1 and "ours" in trainer else None,
    }
    record.row(**row, split=time_split(pieces.part, device) if trainer != "ours eager" else {})


if __name__ == "__main__":
    main()
