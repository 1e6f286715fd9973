"""``torch.compile`` in one place: what is compiled, and what makes it give the same numbers every time."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.utils import deterministic

from fits.errors import UserError
from trainer_small.model.dispatch import apply_experts
from trainer_small.model.model import Model
from trainer_small.model.moe import MixtureOfExperts


def compile_model(model: Model, *, by_layer: bool, graphs: bool = False) -> None:
    """Have the model's forward and backward compiled at their first call, for the shapes they meet then.

    The compiler's CPU kernels add up gradients by atomic operations unless deterministic algorithms are asked for;
    with several threads two runs would differ.

    Args:
        by_layer: compile each layer alone, as sharded parameters need: they are gathered between the layers.
        graphs: replay the kernels as CUDA graphs, for models so small that launching them takes longer. The whole batch
            must be one part: a graph writes its gradients to one place.

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
    if by_layer:
        for block in (*model.blocks, *model.multi_token.values()):
            block.compile(dynamic=False)
    else:
        # Rows that travel between ranks are counted on the host: there the graph breaks.
        blocks = [block for block in model.modules() if isinstance(block, MixtureOfExperts)]
        alone = all(block.experts is apply_experts for block in blocks)
        for module in (model, *model.multi_token.values()):
            module.compile(dynamic=False, fullgraph=alone, mode="reduce-overhead" if graphs else None)


def eager(model: Model) -> AbstractContextManager[object]:
    """Inside, the model runs as it is written: for shapes that are met too seldom to compile for."""
    return torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()


def is_compiled(model: Model) -> bool:
    """Whether ``compile_model`` was called on it."""
    return any(module._compiled_call_impl is not None for module in (model, *model.blocks))
