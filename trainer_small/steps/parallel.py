"""One model on several processes: data parallel, experts spread over ranks, and parameters sharded (FSDP2).

Every rank reads its own rows of the batch. Parameters are whole on every rank and their gradients are averaged, but
for two kinds: with ``expert_parallel`` a rank keeps only its share of each layer's experts and tokens travel to them
(``expert_exchange``), and with ``shard_parameters`` all others are FSDP2's (``fully_shard``, arXiv 2304.11277).
A checkpoint holds whole tensors under the same names, however the run is spread.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from fits.errors import UserError
from trainer_small.config import ParallelConfig
from trainer_small.machine.ranks import Ranks
from trainer_small.model.expert_exchange import ExpertExchange
from trainer_small.model.model import Model
from trainer_small.model.moe import MixtureOfExperts

_BUCKET = 2**25
"""Gradients are averaged in flat pieces of about this many numbers: small messages cost time each."""


class Parallel:
    """How one model is spread over ``ranks``; with one rank everything here is the plain thing.

    Raises:
        UserError: ``expert_parallel`` does not divide the ranks or the experts.
    """

    def __init__(self, ranks: Ranks, config: ParallelConfig, model: Model) -> None:
        self.ranks, self.model = ranks, model
        self.experts_over = config.expert_parallel
        self.sharded = config.shard_parameters and ranks.size > 1
        if ranks.size % self.experts_over:
            raise UserError(
                f"parallel.expert_parallel is {self.experts_over} but {ranks.size} processes train the run; "
                f"start a multiple of it: torchrun --nproc-per-node {self.experts_over} ..."
            )
        experts = model.architecture.num_experts
        if self.experts_over > 1 and (not experts or experts % self.experts_over):
            raise UserError(f"parallel.expert_parallel {self.experts_over} does not divide num_experts {experts}.")
        if ranks.size > 1:
            self._spread(torch.device(next(model.parameters()).device))
        self._expert_parameters = {id(part) for part in _expert_parameters(model)} if self.experts_over > 1 else set()

    def _spread(self, device: torch.device) -> None:
        shape = self.ranks.size // self.experts_over, self.experts_over
        self._mesh: DeviceMesh = init_device_mesh(device.type, shape, mesh_dim_names=("replica", "expert"))
        if self.experts_over > 1:
            group = self._mesh.get_group("expert")
            for block in _moe_blocks(self.model):
                exchange = ExpertExchange(group, self.experts_over)
                block.experts = cast(Callable[..., Tensor], torch.compiler.disable(exchange.apply_experts))
                for name in block.expert_parameters():
                    parameter = getattr(block, name)
                    setattr(block, name, nn.Parameter(self._own(parameter.detach()).clone()))
        if self.sharded:
            from torch.distributed.fsdp import fully_shard  # a second's import, for those who shard

            apart = set(_expert_parameters(self.model)) if self.experts_over > 1 else None
            mesh = init_device_mesh(device.type, (self.ranks.size,))
            for block in (*self.model.blocks, *self.model.multi_token.values()):
                fully_shard(block, mesh=mesh, ignored_params=apart)
            fully_shard(self.model, mesh=mesh, ignored_params=apart)

    def _own(self, experts: Tensor) -> Tensor:
        """This rank's experts of all."""
        return experts.chunk(self.experts_over)[self._mesh.get_local_rank("expert")]

    # Every step

    def rows(self, count: int) -> tuple[int, int]:
        """First row and number of rows of this rank in a batch of ``count``."""
        if count % self.ranks.size:
            raise UserError(
                f"a batch of {count} sequences does not divide over {self.ranks.size} processes; "
                "make batch_tokens a multiple of sequence_length times the processes."
            )
        own = count // self.ranks.size
        return self.ranks.rank * own, own

    def average_gradients(self) -> None:
        """After the backward pass: the gradient of the mean loss over all ranks, on each of them."""
        if self.ranks.size == 1:
            return
        own = [part for part in self.model.parameters() if id(part) in self._expert_parameters]
        whole = [part for part in self.model.parameters() if not self._is_apart(part)]
        _sum_gradients(whole, dist.group.WORLD, 1 / self.ranks.size)
        # An expert has met the tokens of all ranks of its group already.
        replicas = self._mesh.get_group("replica") if self.experts_over < self.ranks.size else None
        _sum_gradients(own, replicas, 1 / self.ranks.size)

    def clip_gradients(self, largest: float) -> Tensor:
        """Scale all gradients so that their global norm is at most ``largest``; returns the norm before."""
        parameters = [part for part in self.model.parameters() if part.grad is not None]
        if self.ranks.size == 1:
            return torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True)
        whole, own, shards = ([] for _ in range(3))
        for part in parameters:
            assert part.grad is not None
            if _is_sharded(part.grad):
                shards.append(cast(Any, part.grad).to_local())
            else:
                (own if id(part) in self._expert_parameters else whole).append(part.grad)
        device = (whole or own or shards)[0].device
        squares = torch.stack([_square_sum(part, device) for part in (whole, own, shards)])
        if own:
            dist.all_reduce(squares[1:2], group=self._mesh.get_group("expert"))
        if shards:
            dist.all_reduce(squares[2:3])
        norm = squares.sum().sqrt()
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        for part in whole + own + shards:
            part.mul_(factor)
        return norm

    def sum_router_loads(self) -> None:
        """Make every router's ``load`` that of all ranks: the balancing bias follows the whole batch."""
        loads = [router.load for router in self.model.routers()]
        if self.ranks.size > 1 and loads:
            total = torch.stack(loads)
            dist.all_reduce(total)
            for load, summed in zip(loads, total, strict=True):
                load.copy_(summed)

    # Checkpoints

    def split_groups(self, optimizer: torch.optim.Optimizer) -> None:
        """Sharded and plain parameters in groups of their own: one fused step takes one kind."""
        if not (self.sharded and self.experts_over > 1):
            return
        groups, optimizer.param_groups = list(optimizer.param_groups), []
        for group in groups:
            for apart in (False, True):
                members = [part for part in group["params"] if (id(part) in self._expert_parameters) == apart]
                if members:
                    optimizer.add_param_group(group | {"params": members})

    def gather(self, model: dict[str, Tensor], optimizer: dict[str, Any], of: torch.optim.Optimizer) -> None:
        """Replace this rank's parts in both state dictionaries by whole tensors; every rank must call it."""
        self._exchange_parts(model, optimizer, of, self._whole)

    def localize(self, model: dict[str, Tensor], optimizer: dict[str, Any], of: torch.optim.Optimizer) -> None:
        """The inverse: this rank's parts of whole tensors."""
        self._exchange_parts(model, optimizer, of, self._part)

    def _exchange_parts(
        self,
        model: dict[str, Tensor],
        optimizer: dict[str, Any],
        of: torch.optim.Optimizer,
        change: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        if self.ranks.size == 1:
            return
        for name, parameter in self.model.named_parameters():
            if name in model and self._is_apart(parameter):
                model[name] = change(model[name], parameter)
        members = [part for group in of.param_groups for part in group["params"]]
        states = optimizer["state"]
        for index, parameter in enumerate(members):
            if index in states and self._is_apart(parameter):
                states[index] = {
                    key: change(value, parameter) if isinstance(value, Tensor) and value.dim() else value
                    for key, value in states[index].items()
                }

    def _is_apart(self, parameter: Tensor) -> bool:
        """Whether no rank has all of the parameter."""
        return _is_sharded(parameter) or id(parameter) in self._expert_parameters

    def _whole(self, part: Tensor, parameter: Tensor) -> Tensor:
        if _is_sharded(part):
            return cast(Any, part).full_tensor()
        pieces = [torch.empty_like(part) for _ in range(self.experts_over)]
        dist.all_gather(pieces, part.contiguous(), group=self._mesh.get_group("expert"))
        return torch.cat(pieces)

    def _part(self, whole: Tensor, parameter: Tensor) -> Tensor:
        if _is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            shard = cast(Any, parameter)
            return distribute_tensor(whole.to(parameter.device), shard.device_mesh, shard.placements)
        return self._own(whole)


def _is_sharded(tensor: Tensor) -> bool:
    """Whether FSDP2 has the tensor: a DTensor, which plain tensors need not be loaded to tell."""
    return hasattr(tensor, "device_mesh")


def _moe_blocks(model: Model) -> Iterator[MixtureOfExperts]:
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            yield module


def _expert_parameters(model: Model) -> Iterator[nn.Parameter]:
    for block in _moe_blocks(model):
        for name in block.expert_parameters():
            yield getattr(block, name)


def _square_sum(parts: list[Tensor], device: torch.device) -> Tensor:
    if not parts:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(parts, foreach=True).square()


def _sum_gradients(parameters: list[nn.Parameter], group: dist.ProcessGroup | None, scale: float) -> None:
    """Add the gradients up over the group and scale them; without a group only scale."""
    gradients = [part.grad for part in parameters if part.grad is not None]
    if group is not None:
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=group)
            for gradient, summed in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))
    for gradient in gradients:
        gradient.mul_(scale)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(part.numel() for part in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
