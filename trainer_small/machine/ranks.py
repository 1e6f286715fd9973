"""The processes that train one run together, as torchrun starts them; alone, one."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine: the index of its GPU."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, value: int) -> int:
        """The largest value that any rank gave, on every rank: a decision to stop or save is one decision."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value


def join_ranks() -> Ranks:
    """The ranks that torchrun's environment speaks of; host tensors go by gloo, CUDA tensors by NCCL."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    local_rank = int(os.environ["LOCAL_RANK"])
    if not dist.is_initialized():
        if local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), size, local_rank)


def several_ranks() -> bool:
    """Whether torchrun started this process as one of several; before ``join_ranks`` too."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def first_of_ranks() -> bool:
    """Whether this process is the one that writes; before ``join_ranks`` too."""
    return os.environ.get("RANK", "0") == "0"
