"""The transformer that an ``Architecture`` describes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer_small.architecture import Architecture
from trainer_small.attention import GroupedQueryAttention, LatentAttention, Positions
from trainer_small.dispatch import Dispatch
from trainer_small.feedforward import FeedForward
from trainer_small.moe import MixtureOfExperts
from trainer_small.norm import RMSNorm
from trainer_small.router import Router
from trainer_small.supported import require_trainable


class Block(nn.Module):
    """Pre-norm: ``x + attention(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, architecture: Architecture, layer: int, dispatch: Dispatch) -> None:
        super().__init__()
        a = architecture
        self.attention_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.attention = LatentAttention(a) if a.attention == "mla" else GroupedQueryAttention(a)
        self.ffn_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.is_moe = a.is_moe_layer(layer)
        self.ffn = MixtureOfExperts(a, dispatch) if self.is_moe else FeedForward(a.hidden_size, a.dense_ffn_size)

    def forward(self, x: Tensor, batch: int, positions: Positions) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``x [batch * length, hidden]`` to the same shape, the router's losses and its load."""
        x = x + self.attention(self.attention_norm(x), batch, positions)
        out = self.ffn(self.ffn_norm(x))
        if not self.is_moe:
            return x + out, None, None
        out, routing = out
        return x + out, routing.loss, routing.load


class Model(nn.Module):
    """Token ids to hidden states; the loss applies the head, so that no full table of logits need exist.

    Args:
        architecture: must be one the trainer builds.
        dispatch: how experts are computed; ``None`` takes ``grouped`` on CUDA and ``sorted`` elsewhere.
        compute_dtype: type of activations and matrix products.

    Raises:
        UserError: the architecture has a part that is not built.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        dispatch: Dispatch = "sorted",
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        require_trainable(architecture)
        self.architecture, self.compute_dtype = architecture, compute_dtype
        self.embedding = nn.Embedding(architecture.vocab_size, architecture.hidden_size)
        self.blocks = nn.ModuleList(Block(architecture, layer, dispatch) for layer in range(architecture.num_layers))
        self.norm = RMSNorm(architecture.hidden_size, architecture.norm_eps)
        if not architecture.tied_embeddings:
            self.lm_head = nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        self.activation_checkpointing = False
        """Keep only the layers' inputs for the backward pass, and compute the layers again there."""
        self._positions: dict[int, Positions] = {}

    @property
    def head(self) -> Tensor:
        """The output matrix ``[vocab_size, hidden_size]``."""
        return self.embedding.weight if self.architecture.tied_embeddings else self.lm_head.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states ``[batch * length, hidden]`` after the last norm for ``tokens [batch, length]``,
        and the sum of the routers' losses (None when there are none)."""
        batch, length = tokens.shape
        positions = self._positions_of(length, tokens.device)
        x = F.embedding(tokens.flatten(), self.embedding.weight).to(self.compute_dtype)
        total = None
        for block in self.blocks:
            assert isinstance(block, Block)
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, loss, load = checkpoint(block, x, batch, positions, use_reentrant=False)
            else:
                x, loss, load = block(x, batch, positions)
            if isinstance(block.ffn, MixtureOfExperts):
                block.ffn.router.load += load
            if loss is not None:
                total = loss if total is None else total + loss
        return self.norm(x), total

    def logits(self, tokens: Tensor) -> Tensor:
        """``[batch, length, vocab_size]``: for tests and small uses."""
        hidden, _ = self(tokens)
        return F.linear(hidden, self.head.to(hidden.dtype)).view(*tokens.shape, -1)

    def routers(self) -> Iterator[Router]:
        """The routers of the layers with experts, in order."""
        for module in self.modules():
            if isinstance(module, Router):
                yield module

    def _positions_of(self, length: int, device: torch.device) -> Positions:
        if length not in self._positions:
            self._positions[length] = Positions(self.architecture, length, device, self.compute_dtype)
        return self._positions[length]


_ROLES = (
    ("embedding.", "embedding"),
    ("lm_head.", "lm_head"),
    (".attention.", "attention"),
    (".router.", "router"),
    (".shared_", "shared_experts"),
    ("norm.", "norm"),
)


def role_of(name: str, is_moe_layer: bool) -> str:
    """The role of a parameter by its name, as ``Architecture.params_by_role`` calls it."""
    for part, role in _ROLES:
        if part in name:
            return role
    return "routed_experts" if is_moe_layer else "dense_mlp"


def params_by_role(model: Model) -> dict[str, int]:
    """Parameters of the built modules by role: what ``Architecture.params_by_role`` must say."""
    counts = dict.fromkeys(model.architecture.params_by_role(), 0)
    for name, parameter in model.named_parameters():
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        counts[role_of(name, layer >= 0 and model.architecture.is_moe_layer(layer))] += parameter.numel()
    return counts
