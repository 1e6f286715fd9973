"""One model on several processes: data parallel, experts spread over ranks, and parameters sharded (FSDP2).

Every rank reads its own rows of the batch. Parameters are whole on every rank and their gradients are averaged, but
for two kinds: with ``expert_parallel`` a rank keeps only its share of each layer's experts and tokens travel to them
(``expert_exchange``), and with ``shard_parameters`` the other matrices are FSDP2's (``fully_shard``, arXiv 2304.11277).
A checkpoint holds whole tensors under the same names, however the run is spread.
"""

from collections.abc import Callable, Iterator
from itertools import chain, count
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

    Args:
        model: in host memory; each rank's part of it goes to ``device``.

    Raises:
        UserError: ``expert_parallel`` does not divide the ranks or the experts.
    """

    def __init__(self, ranks: Ranks, config: ParallelConfig, model: Model, device: torch.device) -> None:
        self.ranks, self.model = ranks, model
        self.experts_over = config.expert_parallel if ranks.size > 1 else 1
        self.sharded = config.shard_parameters and ranks.size > 1
        if ranks.size % self.experts_over:
            raise UserError(
                f"parallel.expert_parallel is {self.experts_over} but {ranks.size} processes train the run; "
                f"start a multiple of it: torchrun --nproc-per-node {self.experts_over} ..."
            )
        experts = model.architecture.num_experts
        if self.experts_over > 1 and (not experts or experts % self.experts_over):
            raise UserError(f"parallel.expert_parallel {self.experts_over} does not divide num_experts {experts}.")
        self._averages: list[GradientAverage] = []
        self._expert_parameters: set[int] = set()
        if ranks.size > 1:
            self._spread(device.type)
        model.to(device)
        if ranks.size > 1:
            self._average()

    def _spread(self, device_type: str) -> None:
        shape = self.ranks.size // self.experts_over, self.experts_over
        self._mesh: DeviceMesh = init_device_mesh(device_type, shape, mesh_dim_names=("replica", "expert"))
        if self.experts_over > 1:
            group = self._mesh.get_group("expert")
            for block in _moe_blocks(self.model):
                exchange = ExpertExchange(group, self.experts_over)
                block.experts = cast(Callable[..., Tensor], torch.compiler.disable(exchange.apply_experts))
                for name in block.expert_parameters():
                    parameter = getattr(block, name)
                    setattr(block, name, nn.Parameter(self._own(parameter.detach()).clone()))
            self._expert_parameters = {id(part) for part in _expert_parameters(self.model)}
        if self.sharded:
            self._shard(init_device_mesh(device_type, (self.ranks.size,)))

    def _shard(self, mesh: DeviceMesh) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # a second's import, for those who shard

        apart = set(_expert_parameters(self.model)) if self.experts_over > 1 else set()
        # Gains, biases and routers are small and computed in float32: every rank has them whole.
        apart |= {part for name, part in self.model.named_parameters() if part.dim() == 1 or ".router." in name}
        # Matrices travel and multiply in the type of the products; their gradients are added up in float32.
        types = MixedPrecisionPolicy(self.model.compute_dtype, torch.float32, cast_forward_inputs=False)
        for block in (*self.model.blocks, *self.model.multi_token.values()):
            fully_shard(block, mesh=mesh, mp_policy=types, ignored_params=apart)
        # The head's gradient is added up over chunks of the loss: in float32, as embedding and head are.
        fully_shard(self.model, mesh=mesh, ignored_params=apart)

    def _average(self) -> None:
        whole = [part for part in self.model.parameters() if not self._is_apart(part)]
        own = [part for part in self.model.parameters() if id(part) in self._expert_parameters]
        # An expert has met the tokens of all ranks of its group already.
        replicas = self._mesh.get_group("replica") if self.experts_over < self.ranks.size else None
        scale = 1 / self.ranks.size
        self._averages = [GradientAverage(whole, dist.group.WORLD, scale), GradientAverage(own, replicas, scale)]

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
        torch.ops.aten._foreach_mul_.Tensor(whole + own + shards, factor)
        return norm

    def sum_router_loads(self) -> None:
        """Make every router's ``load`` that of all ranks: the balancing bias follows the whole batch."""
        loads = [router.load for router in self.model.routers()]
        if self.ranks.size > 1 and loads:
            total = torch.stack(loads)
            dist.all_reduce(total)
            for load, summed in zip(loads, total, strict=True):
                load.copy_(summed)

    def shared_orthogonal(self, matrices: Tensor) -> Tensor:
        """``muon.orthogonalize`` of ``[count, rows, columns]``, the same on all ranks: each makes its part of them."""
        each = -(-len(matrices) // self.ranks.size)
        own = matrices[self.ranks.rank * each :][:each]
        made = matrices.new_zeros(each, *matrices.shape[1:], dtype=self.model.compute_dtype)  # which loses nothing
        made[: len(own)] = orthogonalize(own, self.model.compute_dtype)
        out = made.new_empty(each * self.ranks.size, *matrices.shape[1:])
        dist.all_gather(list(out.chunk(self.ranks.size)), made)
        return out[: len(matrices)].to(matrices.dtype)

    # The optimizer and checkpoints

    def split_groups(self, optimizer: torch.optim.Optimizer) -> None:
        """Put parameters that FSDP2 has, those of this rank alone and those that all ranks have alike into groups of
        their own: one fused step takes one kind. Ranks share Muon's work on what they have alike."""
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        """As one process has them, which is how a checkpoint has them."""
        if self.ranks.size == 1:
            return
        groups, optimizer.param_groups = list(optimizer.param_groups), []
        for group in groups:
            for kind in sorted({self._kind(part) for part in group["params"]}):
                members = [part for part in group["params"] if self._kind(part) == kind]
                optimizer.add_param_group(group | {"params": members})
        self._mark_own(optimizer)
        if isinstance(optimizer, Muon):
            optimizer.share = self.shared_orthogonal

    def _mark_own(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["own"] = id(group["params"][0]) in self._expert_parameters

    def _kind(self, parameter: Tensor) -> tuple[bool, bool]:
        return _is_sharded(parameter), id(parameter) in self._expert_parameters

    @torch.no_grad()
    def state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state dictionaries of model and optimizer as one process has them; every rank must call it.

        What no rank has whole is put together tensor by tensor, and is then in host memory of the first rank; the
        others go without it.
        """
        if self.ranks.size == 1:
            return self.model.state_dict(), optimizer.state_dict()
        model = self._gathered({name: (part, part) for name, part in self.model.state_dict(keep_vars=True).items()})
        groups = [group["params"] for group in optimizer.param_groups]
        state = _renumbered(optimizer.state_dict(), groups, self._groups)
        for number, parameter in enumerate(chain(*self._groups)):
            if number in state["state"]:
                moments = state["state"][number]
                state["state"][number] = self._gathered({key: (part, parameter) for key, part in moments.items()})
        return model, state

    def _gathered(self, parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """From parts and the parameters that they are of."""
        out = {}
        for name, (part, parameter) in parts.items():
            if not part.dim() or not self._is_apart(parameter):
                out[name] = part.detach()
            elif (whole := self._on_first(part.detach(), parameter)) is not None:
                out[name] = whole
        return out

    def _on_first(self, part: Tensor, parameter: Tensor) -> Tensor | None:
        """The whole tensor in host memory of the first rank, on others None; on the device it lives only here."""
        if _is_sharded(parameter):
            whole = cast(Any, part).full_tensor()
        elif self._mesh.get_local_rank("replica"):
            return None
        else:
            whole = part.new_empty(len(part) * self.experts_over if self.ranks.is_first else 0, *part.shape[1:])
            pieces = list(whole.chunk(self.experts_over)) if self.ranks.is_first else None
            dist.gather(part.contiguous(), pieces, dst=0, group=self._mesh.get_group("expert"))
        return whole.cpu() if self.ranks.is_first else None

    @torch.no_grad()
    def restore(self, model: dict[str, Tensor], state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Take this rank's part of what ``state`` gave, of any number of processes, tensor by tensor.

        Raises:
            UserError: it lacks a tensor.
        """
        if lacking := sorted(self.model.state_dict().keys() - model.keys()):
            raise UserError(
                f"the checkpoint has no '{lacking[0]}', so another version of this program wrote it; "
                "train the run again in a new folder."
            )
        for name, own in self.model.state_dict(keep_vars=True).items():
            _local(own).copy_(self._part(model[name], own))
        members = list(chain(*self._groups))
        moments = {
            number: {key: self._placed(value, members[number]) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        groups = [group["params"] for group in optimizer.param_groups]
        optimizer.load_state_dict(_renumbered(state | {"state": moments}, self._groups, groups))
        self._mark_own(optimizer)

    def _part(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """A view of this rank's part."""
        if _is_sharded(parameter):
            each = -(-len(whole) // self.ranks.size)  # as FSDP2 cuts
            return whole[self.ranks.rank * each :][:each]
        return self._own(whole) if id(parameter) in self._expert_parameters else whole

    def _placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        """The parameter's part of a moment, where the parameter lies; not in the file, which may be mapped."""
        part = self._part(value, parameter) if value.dim() else value
        part = part.to(parameter.device, copy=self.ranks.size > 1)
        if not value.dim() or not _is_sharded(parameter):
            return part
        from torch.distributed.tensor import DTensor

        shard = cast(DTensor, parameter)
        return DTensor.from_local(
            part, shard.device_mesh, shard.placements, run_check=False, shape=shard.shape, stride=shard.stride()
        )

    def _is_apart(self, parameter: Tensor) -> bool:
        """Whether no rank has all of the parameter."""
        return any(self._kind(parameter))


def _is_sharded(tensor: Tensor) -> bool:
    """Whether FSDP2 has the tensor: a DTensor, which plain tensors need not be loaded to tell."""
    return hasattr(tensor, "device_mesh")


def _local(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).to_local() if _is_sharded(tensor) else tensor


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


def _renumbered(state: dict[str, Any], groups: list[list[Tensor]], wanted: list[list[Tensor]]) -> dict[str, Any]:
    """An optimizer's state dictionary, of parameters in ``groups``, as if they were in groups as ``wanted``."""
    number = {id(part): index for index, part in enumerate(chain(*groups))}
    options = {
        id(part): group for part_group, group in zip(groups, state["param_groups"], strict=True) for part in part_group
    }
    new = count()
    return {
        "state": {
            index: state["state"][number[id(part)]]
            for index, part in enumerate(chain(*wanted))
            if number[id(part)] in state["state"]
        },
        "param_groups": [options[id(group[0])] | {"params": [next(new) for _ in group]} for group in wanted],
    }
