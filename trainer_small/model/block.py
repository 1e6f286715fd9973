"""One layer of the transformer: attention, then a dense FFN or experts, each on a normed input and added to it."""

from torch import Tensor, nn

from trainer_small.architecture import Architecture
from trainer_small.model.attention import GroupedQueryAttention, LatentAttention, Positions
from trainer_small.model.dispatch import Dispatch
from trainer_small.model.feedforward import FeedForward
from trainer_small.model.moe import MixtureOfExperts
from trainer_small.model.norm import RMSNorm


class Block(nn.Module):
    """Pre-norm: ``x + attention(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, architecture: Architecture, layer: int, dispatch: Dispatch) -> None:
        super().__init__()
        a = architecture
        self.attention_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.attention = LatentAttention(a) if a.attention == "mla" else GroupedQueryAttention(a)
        self.ffn_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.is_moe = a.is_moe_layer(layer)
        if self.is_moe:
            self.ffn = MixtureOfExperts(a, dispatch)
        else:
            self.ffn = FeedForward(a.hidden_size, a.dense_ffn_size, a.dense_ffn_bias)

    def forward(self, x: Tensor, batch: int, positions: Positions) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``x [batch * length, hidden]`` to the same shape, the router's losses and its load."""
        x = x + self.attention(self.attention_norm(x), batch, positions)
        if not self.is_moe:
            return x + self.ffn(self.ffn_norm(x)), None, None
        out, routing = self.ffn(self.ffn_norm(x), batch)
        return x + out, routing.loss, routing.load
