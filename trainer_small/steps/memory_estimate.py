"""What a run will take before it runs: its peak memory, predicted by one step of tensors without memory.

The step is the run's own code on fake tensors, which have shapes and no data, so the prediction cannot fall behind the
model. What a process holds besides its tensors was measured (``benchmarks/trainer/memory_prediction.py``).
"""

import gc
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer_small.config import RunSpec
from trainer_small.machine.live_bytes import LiveBytes
from trainer_small.machine.machine import available_memory_bytes
from trainer_small.machine.memory import give_back_at_once
from trainer_small.machine.run_memory import PROCESS_BYTES, process_bytes, run_memory_bytes
from trainer_small.model.model import Model
from trainer_small.steps.objective import set_router_losses, training_loss
from trainer_small.steps.optimizer import make_optimizer

Run = TypeVar("Run", bound=RunSpec)

_COMPILER_BYTES = 400 * 2**20
"""What ``torch.compile`` adds to a process."""
_CUDA_BYTES = 600 * 2**20
"""CUDA's context, kernels and workspaces on the device: a guess until a GPU is at hand."""
_CUDA_SHARE = 0.92
"""Of a GPU's free memory, what tensors can be put into: the rest is lost between them."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one run, bytes: of the process on a CPU, of the device on CUDA."""

    weights: int
    """In float32."""
    optimizer: int
    """Its moments."""
    tensors: int
    """Most that all tensors take at one time during a step; weights, gradients and moments in."""
    total: int
    """With what a process has besides its tensors: the number to compare with free memory."""


def memory_estimate(run: RunSpec, *, cuda: bool = False, ranks: int = 1) -> MemoryEstimate:
    """Predict a run's peak memory, without taking any; the first call for a shape takes about a second.

    On a CPU it is the peak where freed memory is given back at once (``require_memory``); a run that has room takes
    1.3 to 2 times as much for its tensors.

    Args:
        run: what is to be trained.
        cuda: on a GPU, where the tensors alone are counted exactly and the rest has not been compared with one yet.
        ranks: that train the run together; what is said is then of one of them, where ``parallel`` spreads the
            parameters less exactly: gradients are taken to be whole for a moment.
    """
    shape = {"run_id", "architecture", "training", "dtype", "activation_checkpointing"}
    same = {"run_id": "any", "dtype": run.dtype_on("cuda" if cuda else "cpu")}
    content = run.model_copy(update=same).model_dump_json(include=shape)
    weights, optimizer, tensors = _step(content, cuda)
    if ranks > 1:
        here, gathered = _share_of_rank(run, ranks)
        tensors += round(gathered - (1 - here) * (weights + optimizer))
        weights, optimizer = round(here * weights), round(here * optimizer)
    besides = _CUDA_BYTES if cuda else process_bytes(run) + (_COMPILER_BYTES if run.compile else 0)
    return MemoryEstimate(weights, optimizer, tensors, tensors + besides)


def _share_of_rank(run: RunSpec, ranks: int) -> tuple[float, int]:
    """What part of the parameters one rank keeps, and the bytes of those that FSDP2 gathers for a while."""
    architecture, parallel = run.architecture, run.parallel
    roles = architecture.params_by_role()
    experts, small = roles["routed_experts"], roles["router"] + roles["norm"]
    matrices = sum(roles.values()) - experts - small
    here = experts / parallel.expert_parallel + matrices + small
    if not parallel.shard_parameters:
        return here / sum(roles.values()), 0
    apart = parallel.expert_parallel > 1  # experts, which are then not FSDP2's
    here = (experts / parallel.expert_parallel if apart else experts / ranks) + matrices / ranks + small
    tables = roles["embedding"] + roles["lm_head"]
    blocks = matrices - tables + (0 if apart else experts)
    gathered = 4 * tables + 2 * 2 * blocks // architecture.num_layers  # of two blocks: the next one comes early
    return here / sum(roles.values()), gathered


def fit_micro_batch(run: Run, device: torch.device, ranks: int = 1, *, models: int = 1) -> Run:
    """On a GPU, the run with the largest micro-batch that fits its free memory, where the run names none itself.

    Args:
        ranks: that train the run together; models: of one shape that share the GPU, as in a stack.

    When not one sequence fits the run is left as it is: ``require_memory`` says what it lacks.
    """
    if device.type != "cuda" or run.training.micro_batch_tokens is not None:
        return run
    micro = largest_micro_batch(run, _free_bytes(device) / models, ranks)
    return run if micro is None else with_micro_batch(run, micro)


def largest_micro_batch(run: RunSpec, free_bytes: float, ranks: int = 1) -> int | None:
    """The most tokens in one forward and backward pass whose predicted peak fits into a GPU's free memory.

    Args:
        free_bytes: of one GPU.
        ranks: that share each batch; a part larger than a rank's own rows is not asked for.

    Returns:
        Whole sequences that divide the batch, in tokens; None when one sequence alone does not fit.
    """
    training = run.training
    sequences = training.batch_tokens // training.sequence_length
    sizes = [count for count in range(1, max(1, sequences // ranks) + 1) if sequences % count == 0]

    def too_large(count: int) -> bool:
        part = with_micro_batch(run, count * training.sequence_length)
        return memory_estimate(part, cuda=True, ranks=ranks).total > _CUDA_SHARE * free_bytes

    # Small runs fit whole, which one prediction tells.
    fitting = bisect_left(sizes, True, key=too_large) if too_large(sizes[-1]) else len(sizes)
    return sizes[fitting - 1] * training.sequence_length if fitting else None


def with_micro_batch(run: Run, tokens: int) -> Run:
    return run.model_copy(update={"training": run.training.model_copy(update={"micro_batch_tokens": tokens})})


class DoesNotFit(MemoryError):
    """A run needs more memory than is free: the computed number against the free one."""


def require_memory(run: RunSpec, device: torch.device, ranks: int = 1) -> None:
    """Refuse a run that cannot fit into the free memory, before anything is spent on it.

    A run that takes less than half of it by the quick formula is let through without the exact count. On a CPU a
    larger one is made to take no more than its tensors do, at the cost of speed (``memory.give_back_at_once``).

    Raises:
        DoesNotFit: with the predicted and the free bytes.
    """
    cuda = device.type == "cuda"
    free = _free_bytes(device)
    if 2 * run_memory_bytes(run) < free:
        return
    need = memory_estimate(run, cuda=cuda, ranks=ranks)
    if not cuda:
        give_back_at_once()
    held = 0 if cuda else PROCESS_BYTES  # this process is up already
    if need.total - held > free:
        gib = 2**30
        raise DoesNotFit(
            f"run {run.run_id} needs {need.total / gib:.1f} GiB of memory ({need.weights / gib:.1f} for weights, "
            f"{need.optimizer / gib:.1f} for the optimizer's moments, {need.tensors / gib:.1f} for all tensors of a "
            f"step) and {(free + held) / gib:.1f} GiB are free on {'the GPU' if cuda else 'this machine'}"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return available_memory_bytes()
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier run of this process left
    return torch.cuda.mem_get_info(device)[0]


@lru_cache(maxsize=4096)
def _step(content: str, cuda: bool) -> tuple[int, int, int]:
    """Bytes of weights, of moments, and of all tensors at their most."""
    run = RunSpec.model_validate_json(content)
    training = run.training
    with FakeTensorMode(), LiveBytes() as live:
        # Fake tensors are a CPU's: a GPU's own ways are asked for. It multiplies float32 experts one by one.
        grouped = cuda and run.dtype == "bfloat16"
        dtype = getattr(torch, run.dtype)
        model = Model(run.architecture, dispatch="grouped" if grouped else "sorted", compute_dtype=dtype)
        model.device_type = "cuda" if cuda else None
        set_router_losses(model, training)
        # On a GPU attention to one's own document keeps what attention to all keeps.
        model.document_separator = None if training.cross_document_attention or cuda else 0
        model.activation_checkpointing = run.activation_checkpointing
        weights = live.now
        optimizer = make_optimizer(model, training)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # makes the moments
        optimizer.zero_grad()
        moments = live.now - weights
        live.most = live.now
        micro = training.micro_batch_tokens or training.batch_tokens
        # A second part of a batch meets the first one's gradients; more parts change nothing.
        for _ in range(min(2, training.batch_tokens // micro)):
            shape = micro // training.sequence_length, training.sequence_length + 1
            _, objective = training_loss(model, torch.zeros(shape, dtype=torch.int64), training.multi_token_weight)
            objective.backward()
            del objective
        optimizer.step()
    return weights, moments, live.most
