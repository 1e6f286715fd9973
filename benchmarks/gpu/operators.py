"""How many operators a training step gives a GPU, uncompiled, by phase: counted on tensors without memory, so anywhere.

python benchmarks/gpu/operators.py

An operator is at least one kernel launch, which takes the host some microseconds; one on a list of tensors counts once.
"""

from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.shapes import Shape
from scaling.commands.console import print_table
from trainer_small.model.model import Model
from trainer_small.steps.objective import training_loss
from trainer_small.steps.optimizer import make_optimizer
from trainer_small.training_config import TrainingConfig

_SHAPES = [Shape(64, 4, None, num_experts=8, experts_per_token=2, vocab_size=2048, sequence_length=512)]
_SHAPES += [Shape(512, 14, None), Shape(1024, 21, None)]
_VIEWS = ("view", "t", "transpose", "permute", "split", "slice", "select", "expand", "detach", "alias", "unsqueeze")
_VIEWS += ("squeeze", "as_strided", "_unsafe_view", "split_with_sizes", "empty", "empty_like")
_QUESTIONS = ("device", "promote_types")


class _Counted(TorchDispatchMode):
    """Operators by phase; those that only look at memory another way are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.counts = "", Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ not in _VIEWS + _QUESTIONS:
            self.counts[self.phase] += 1
        return func(*args, **(kwargs or {}))


def count(shape: Shape, optimizer_name: str) -> Counter[str]:
    training = TrainingConfig(tokens=10**9, learning_rate=1e-3, optimizer=optimizer_name)  # type: ignore[arg-type]
    with FakeTensorMode():
        model = Model(shape.architecture, dispatch="grouped", compute_dtype=torch.bfloat16)
        model.device_type = "cuda"
        optimizer = make_optimizer(model, training)
        windows = torch.zeros((4, shape.sequence_length + 1), dtype=torch.int64)
        for _ in range(2):  # the first makes the moments
            with _Counted() as counted:
                counted.phase = "forward"
                objective = training_loss(model, windows)[1]
                counted.phase = "backward"
                objective.backward()
                counted.phase = "clip"
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
                counted.phase = "optimizer"
                optimizer.step()
                optimizer.zero_grad()
                counted.phase = "router bias"
                for router in model.routers():
                    router.end_batch(1e-3)
    return counted.counts


def main() -> None:
    rows = []
    for shape in _SHAPES:
        for name in ("adamw", "muon"):
            counts = count(shape, name)
            rows.append([shape.name, name, *(f"{number:,}" for number in counts.values()), f"{counts.total():,}"])
    phases = ["forward", "backward", "clip", "optimizer", "router bias"]
    print_table(["shape", "optimizer", *phases, "all"], rows, title="operators of a step of one micro-batch")


if __name__ == "__main__":
    main()
