"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): one more layer that predicts one token further.

The layer sees the hidden state of a place and the embedding of the token that comes next, and predicts the one after;
embedding and head are the main model's. It serves training, and drafting at inference; the main model is what it is
without it.
"""

import torch
from torch import Tensor, nn

from trainer_small.architecture import Architecture
from trainer_small.model.attention import Positions, linear
from trainer_small.model.block import Block
from trainer_small.model.dispatch import Dispatch
from trainer_small.model.norm import RMSNorm


class MultiTokenModule(nn.Module):
    def __init__(self, architecture: Architecture, layer: int, dispatch: Dispatch) -> None:
        super().__init__()
        size, eps = architecture.hidden_size, architecture.norm_eps
        self.embedding_norm, self.hidden_norm = RMSNorm(size, eps), RMSNorm(size, eps)
        self.projection = nn.Linear(2 * size, size, bias=False)
        self.block = Block(architecture, layer, dispatch)
        self.norm = RMSNorm(size, eps)

    def forward(
        self, hidden: Tensor, embedded: Tensor, batch: int, positions: Positions
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Both ``[batch * length, hidden]`` to the same shape; and the router's losses and its load."""
        both = torch.cat((self.embedding_norm(embedded), self.hidden_norm(hidden)), -1)
        x, loss, load = self.block(linear(both, self.projection), batch, positions)
        return self.norm(x), loss, load
