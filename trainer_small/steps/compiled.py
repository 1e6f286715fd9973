"""``torch.compile`` in one place: what is compiled, and what makes it give the same numbers every time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from fits.errors import UserError
from trainer_small.model.dispatch import apply_experts
from trainer_small.model.model import Model
from trainer_small.model.moe import MixtureOfExperts


def compile_model(model: Model, *, graphs: bool = False) -> None:
    """Have the model's blocks compiled at their first call, for the shapes they meet then.

    A block is compiled once for all layers that are alike: a model of many layers takes no longer than one of two.
    Embedding, last norm and loss stay outside (the loss has its own compiled part).

    The compiler's CPU kernels add up gradients by atomic operations unless deterministic algorithms are asked for;
    with several threads two runs would differ.

    Args:
        graphs: have all blocks as one graph and replay its kernels as a CUDA graph, for models so small that launching
            them takes longer. The whole batch must be one part: a graph writes its gradients to one place.

    Raises:
        UserError: experts on CUDA in float32, for which the compiled grouped product does not exist.
    """
    if model.head.is_cuda and model.architecture.is_moe and model.compute_dtype == torch.float32:
        raise UserError("compile on CUDA needs dtype bfloat16 where there are experts; set dtype, or compile to false.")
    # A process that trains one run after another would reach the compiler's limit of versions of one function.
    torch.compiler.reset()
    if model.head.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # Every buffer here is written before it is read.
        deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if graphs:
        model.through_blocks = torch.compile(
            model.through_blocks, dynamic=False, fullgraph=True, mode="reduce-overhead"
        )
        return
    # Rows that travel between ranks are counted on the host: there the graph breaks.
    blocks = [block for block in model.modules() if isinstance(block, MixtureOfExperts)]
    alone = all(block.experts is apply_experts for block in blocks)
    for block in (*model.blocks, *model.multi_token.values()):
        block.compile(dynamic=False, fullgraph=alone)


@contextmanager
def eager(model: Model) -> Iterator[None]:
    """Inside, the model runs as it is written: for shapes that are met too seldom to compile for.

    What is compiled for its own sake (attention to one's own document on a GPU) stays so.
    """
    blocks = [*model.blocks, *model.multi_token.values()]
    held, model.through_blocks = model.through_blocks, model._through_blocks
    calls = [block._compiled_call_impl for block in blocks]
    for block in blocks:
        block._compiled_call_impl = None
    try:
        yield
    finally:
        model.through_blocks = held
        for block, call in zip(blocks, calls, strict=True):
            block._compiled_call_impl = call


def is_compiled(model: Model) -> bool:
    """Whether ``compile_model`` was called on it."""
    compiled = model.through_blocks != model._through_blocks
    return compiled or any(block._compiled_call_impl is not None for block in model.blocks)
