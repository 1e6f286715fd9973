"""One model on several processes: data parallel, experts spread over ranks, and parameters sharded (FSDP2).

Every rank reads its own rows of the batch. Parameters are whole on every rank and their gradients are averaged, but
for two kinds: with ``expert_parallel`` a rank keeps only its share of each layer's experts and tokens travel to them
(``expert_exchange``), and with ``shard_parameters`` all other matrices are FSDP2's (``fully_shard``, arXiv 2304.11277).
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
from trainer_small.steps.gradient_average import GradientAverage
from trainer_small.steps.muon import Muon, orthogonalize


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
        own = [part for part in model.parameters() if id(part) in self._expert_parameters]
        whole = [part for part in model.parameters() if not self._is_apart(part)]
        self._averages: list[GradientAverage] = []
        if ranks.size > 1:
            self._averages.append(GradientAverage(whole, dist.group.WORLD, 1 / ranks.size))
            # An expert has met the tokens of all ranks of its group already.
            replicas = self._mesh.get_group("replica") if self.experts_over < ranks.size else None
            self._averages.append(GradientAverage(own, replicas, 1 / ranks.size))

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
            from torch.distributed.fsdp import (  # a second's import, for those who shard
                MixedPrecisionPolicy,
                fully_shard,
            )

            apart = set(_expert_parameters(self.model)) if self.experts_over > 1 else set()
            # Gains, biases and routers are small and computed in float32: every rank has them whole.
            apart |= {part for name, part in self.model.named_parameters() if part.dim() == 1 or ".router." in name}
            mesh = init_device_mesh(device.type, (self.ranks.size,))
            dtype = self.model.compute_dtype
            narrow = MixedPrecisionPolicy(
                param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32
            )
            for block in (*self.model.blocks, *self.model.multi_token.values()):
                fully_shard(block, mesh=mesh, ignored_params=apart, mp_policy=narrow)
            # The head's gradient is added up over chunks of the loss: in float32, as embedding and head are.
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

    def last_part(self) -> None:
        """Before the backward pass of a batch's last part: its gradients are averaged as they come.

        Those that FSDP2 has it averages after every part: it is there for what does not fit whole.
        """
        for average in self._averages:
            average.begin()

    def average_gradients(self) -> None:
        """After the backward pass: the gradient of the mean loss over all ranks, on each of them."""
        for average in self._averages:
            average.finish()

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

    def shared_orthogonal(self, matrices: Tensor) -> Tensor:
        """``orthogonalize`` of matrices ``[count, rows, columns]`` that all ranks have alike, each doing its share."""
        share = -(-len(matrices) // self.ranks.size)
        own = matrices[self.ranks.rank * share : (self.ranks.rank + 1) * share]
        mine = matrices.new_zeros(share, *matrices.shape[1:])
        if len(own):
            mine[: len(own)] = orthogonalize(own, self.model.compute_dtype)
        whole = mine.new_empty(share * self.ranks.size, *matrices.shape[1:])
        dist.all_gather_into_tensor(whole, mine)
        return whole[: len(matrices)]

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
        """Parameters that FSDP2 has, those that are this rank's own and those that all ranks have alike in groups of
        their own: one fused step takes one kind. Ranks share Muon's work on what they have alike."""
        if self.ranks.size == 1:
            return
        groups, optimizer.param_groups = list(optimizer.param_groups), []
        self._alone = groups
        for group in groups:
            kinds: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for part in group["params"]:
                kinds.setdefault((_is_sharded(part), id(part) in self._expert_parameters), []).append(part)
            for (_, own), members in kinds.items():
                optimizer.add_param_group(group | {"params": members, "own": own})
        if isinstance(optimizer, Muon):
            optimizer.share = self.shared_orthogonal

    def gather(self, model: dict[str, Tensor], optimizer: dict[str, Any], of: torch.optim.Optimizer) -> None:
        """Replace parts in the first rank's state dictionaries by whole tensors in host memory; drop them from those of
        the others. Every rank must call it. One tensor at a time is whole on a device."""
        if self.ranks.size == 1:
            return
        self._exchange_parts(model, optimizer, of, self._whole)
        places, states = self._places(of), optimizer["state"]
        optimizer["state"] = {place: states[at] for at, place in enumerate(places) if at in states}
        counts = iter(range(len(places)))
        optimizer["param_groups"] = [
            {**group, "params": [next(counts) for _ in group["params"]]} for group in self._alone
        ]

    def localize(self, model: dict[str, Tensor], optimizer: dict[str, Any], of: torch.optim.Optimizer) -> None:
        """The inverse: this rank's parts of whole tensors, which may lie in a file."""
        if self.ranks.size == 1:
            return
        states = optimizer["state"]
        optimizer["state"] = {at: states[place] for at, place in enumerate(self._places(of)) if place in states}
        optimizer["param_groups"] = of.state_dict()["param_groups"]
        self._exchange_parts(model, optimizer, of, self._part)

    def _places(self, optimizer: torch.optim.Optimizer) -> list[int]:
        """For each of its parameters, which one it is to a process alone, whose groups are not split."""
        alone = {id(part): at for at, part in enumerate(part for group in self._alone for part in group["params"])}
        return [alone[id(part)] for group in optimizer.param_groups for part in group["params"]]

    def _exchange_parts(
        self,
        model: dict[str, Tensor],
        optimizer: dict[str, Any],
        of: torch.optim.Optimizer,
        change: Callable[[Tensor, Tensor], Tensor | None],
    ) -> None:

        def exchange(held: dict[str, Any], name: str, parameter: Tensor) -> None:
            changed = change(held[name], parameter)
            if changed is None:
                del held[name]
            else:
                held[name] = changed

        for name, parameter in self.model.named_parameters():
            if name in model and self._is_apart(parameter):
                exchange(model, name, parameter)
        members = [part for group in of.param_groups for part in group["params"]]
        states = optimizer["state"]
        for index, parameter in enumerate(members):
            if index in states and self._is_apart(parameter):
                states[index] = dict(states[index])  # the optimizer's own stays as it is
                for key, value in list(states[index].items()):
                    if isinstance(value, Tensor) and value.dim():
                        exchange(states[index], key, parameter)

    def _is_apart(self, parameter: Tensor) -> bool:
        """Whether no rank has all of the parameter."""
        return _is_sharded(parameter) or id(parameter) in self._expert_parameters

    def _whole(self, part: Tensor, parameter: Tensor) -> Tensor | None:
        if _is_sharded(part):
            whole = cast(Any, part).full_tensor()
            return whole.cpu() if self.ranks.is_first else None
        if self._mesh.get_local_rank("replica"):  # the first ranks of all groups have the same
            return None
        pieces = [torch.empty_like(part) for _ in range(self.experts_over)] if self.ranks.is_first else None
        dist.gather(part.contiguous(), pieces, dst=0, group=self._mesh.get_group("expert"))
        return torch.cat([piece.cpu() for piece in pieces]) if pieces else None

    def _part(self, whole: Tensor, parameter: Tensor) -> Tensor:
        if _is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            shard = cast(Any, parameter)
            return distribute_tensor(whole.to(parameter.device), shard.device_mesh, shard.placements)
        return self._own(whole).to(parameter.device, copy=True)


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
