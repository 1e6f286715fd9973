"""Part 5: the shape of part 2 that is furthest below its goal: the ten kernels that take most, and the idle share."""

import torch

from benchmarks.gpu.record import Record, arguments, read
from benchmarks.gpu.shapes import Shape, six_shapes, tiny
from benchmarks.gpu.six_shapes import predict
from benchmarks.gpu.subjects import our_pieces
from benchmarks.gpu.timing import clean, kernels

_KERNELS = 10


def slowest(options) -> tuple[Shape, int | None, str]:
    """The shape, its micro-batch where part 2 has measured it, and why it was taken."""
    rows = read(options.out.with_name("2_shapes.json")).get("rows", [])
    own = [row for row in rows if row["trainer"] == "ours compiled"]
    shapes = {shape.name: shape for shape in map(tiny, six_shapes()) if options.tiny} or {
        shape.name: shape for shape in six_shapes()
    }
    if not own:
        name = list(shapes)[min(3, len(shapes) - 1)]
        return shapes[name], None, "a middle one: part 2 has measured none"
    row = min(own, key=lambda row: (row["mfu"] or row["of_gemm"]) / row["goal"])
    return shapes[row["shape"]], row["micro_batch_tokens"], "furthest below its goal"


def main() -> None:
    options = arguments(__doc__)
    record, device = Record(options, clean), torch.device(options.device)
    shape, micro, why = slowest(options)
    record.facts(shape=shape.name, why=why, trainer="ours compiled")

    def take() -> None:
        tokens = micro
        if tokens is None:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 8.0 * 2**30
            prediction = predict(shape, free)
            if prediction is None:
                raise MemoryError("not one sequence fits")
            tokens = prediction[0]
        pieces = our_pieces(shape, device, compiled=not options.tiny, micro=tokens)
        for _ in range(3):
            pieces.whole()
        for name, step in (("forward and backward of one part", pieces.part), ("end of a step", pieces.end)):
            wall, rows = kernels(step, device)
            busy = sum(seconds for _, seconds, _ in rows)
            record.row(
                piece=name,
                micro_batch_tokens=tokens,
                wall_seconds=wall,
                launches=sum(calls for _, _, calls in rows),
                idle=max(0.0, 1 - busy / wall),
                kernels=[
                    {"name": kernel, "seconds": seconds, "calls": calls} for kernel, seconds, calls in rows[:_KERNELS]
                ],
            )

    record.attempt(f"profile of {shape.name}", take, limit=options.seconds - 3)


if __name__ == "__main__":
    main()
