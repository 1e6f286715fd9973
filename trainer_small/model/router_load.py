"""How evenly the routers spread tokens over experts."""

import math

import torch
from torch import Tensor

from trainer_small.result import Router


def router_load(loads: list[Tensor]) -> Router | None:
    """From each layer's tokens by expert; ``None`` without routed layers or tokens."""
    if not loads or not loads[0].sum():
        return None
    shares = torch.stack(loads).double()
    shares = shares / shares.sum(-1, keepdim=True)
    experts = shares.shape[-1]
    entropy = torch.special.entr(shares).sum(-1).mean().item()
    return Router(
        entropy=entropy / math.log(experts) if experts > 1 else 1.0,
        max_violation=(shares.max() * experts - 1).item(),
        dead_experts=int((shares == 0).sum()),
    )
