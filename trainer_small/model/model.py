"""The transformer that an ``Architecture`` describes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer_small.architecture import Architecture
from trainer_small.model.attention import Kernel, Positions, attention_kernel
from trainer_small.model.block import Block
from trainer_small.model.dispatch import Dispatch
from trainer_small.model.moe import MixtureOfExperts
from trainer_small.model.multi_token import MultiTokenModule
from trainer_small.model.norm import RMSNorm
from trainer_small.model.router import Router
from trainer_small.supported import require_trainable


class Model(nn.Module):
    """Token ids to hidden states; the loss applies the head, so that no full table of logits need exist.

    Args:
        architecture: must be one the trainer builds.
        dispatch: how experts are computed.
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
        self.dispatch: Dispatch = dispatch
        self.embedding = nn.Embedding(architecture.vocab_size, architecture.hidden_size)
        self.blocks = nn.ModuleList(Block(architecture, layer, dispatch) for layer in range(architecture.num_layers))
        self.norm = RMSNorm(architecture.hidden_size, architecture.norm_eps)
        if not architecture.tied_embeddings:
            self.lm_head = nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        further = range(architecture.num_layers, architecture.num_layers + architecture.num_nextn_predict_layers)
        self.multi_token = nn.ModuleDict(
            {str(layer): MultiTokenModule(architecture, layer, dispatch) for layer in further}
        )
        """Multi-token-prediction modules by the layer they would be, which is where checkpoints have them."""
        self.activation_checkpointing = False
        """Keep only the layers' inputs for the backward pass, and compute the layers again there."""
        self.document_separator: int | None = None
        """The token that starts a document; tokens then see their own document alone, from position 0 on."""
        self.through_blocks = self._through_blocks
        """Compiled where all blocks together are one graph (``steps/compiled.py``)."""
        self.device_type: str | None = None
        """Whose ways are taken (kernel of attention, sizes of chunks), when not the device's own: to predict a GPU."""
        self._positions: dict[tuple[int, Kernel], Positions] = {}

    @property
    def head(self) -> Tensor:
        """The output matrix ``[vocab_size, hidden_size]``."""
        return self.embedding.weight if self.architecture.tied_embeddings else self.lm_head.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states ``[batch * length, hidden]`` after the last norm for ``tokens [batch, length]``,
        and the sum of the routers' losses (None when there are none).

        A stack of models (``stacked``) has one more axis before all of these."""
        batch = tokens.shape[:-1].numel()
        positions = self._positions_of(tokens.flatten(0, -2))
        x, total, loads = self.through_blocks(self._embed(tokens), batch, positions)
        for block, load in zip(self.blocks, loads, strict=True):
            if load is not None:
                assert isinstance(block, Block) and isinstance(block.ffn, MixtureOfExperts)
                block.ffn.router.load += load
        return self.norm(x), total

    def _through_blocks(
        self, x: Tensor, batch: int, positions: Positions
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """What the blocks make of it, the sum of their routers' losses, and each one's load."""
        total, loads = None, []
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, loss, load = checkpoint(block, x, batch, positions, use_reentrant=False)
            else:
                x, loss, load = block(x, batch, positions)
            loads.append(load)
            if loss is not None:
                total = loss if total is None else total + loss
        return x, total, loads

    def _embed(self, tokens: Tensor) -> Tensor:
        table = self.embedding.weight
        if table.dim() == 3:
            models, rows = table.shape[:2]
            tokens = tokens + torch.arange(0, models * rows, rows, device=tokens.device).view(-1, 1, 1)
        return F.embedding(tokens.flatten(-2), table.flatten(0, -2)).to(self.compute_dtype)

    def look_further(self, hidden: Tensor, tokens: Tensor, depth: int) -> tuple[Tensor, Tensor | None]:
        """What multi-token-prediction module ``depth`` (from 1) makes of it: hidden states for the head, router loss.

        Args:
            hidden: ``[batch * length, hidden]`` of the module before, or of ``forward``.
            tokens: ``[batch, length + depth]``: those of the places, then what the last places look ahead to. A place
                belongs to its own token's document.
        """
        module = self.multi_token[str(self.architecture.num_layers + depth - 1)]
        assert isinstance(module, MultiTokenModule)
        embedded = self._embed(tokens[:, depth:])
        out, loss, load = module(hidden, embedded, len(tokens), self._positions_of(tokens[:, :-depth]))
        if isinstance(module.block.ffn, MixtureOfExperts):
            module.block.ffn.router.load += load
        return out, loss

    def within_document(self, tokens: Tensor, depth: int) -> Tensor | None:
        """``[batch * length]``: whether the token ``depth`` further on is of a place's own document; None where
        documents are not apart. Of one document, such places are the first, so that attention shows them no other.

        Args:
            tokens: ``[batch, length + depth]``, as for ``look_further``.
        """
        if self.document_separator is None:
            return None
        documents = (tokens == self.document_separator).cumsum(1)
        return (documents[:, :-depth] == documents[:, depth:]).flatten()

    def logits(self, tokens: Tensor) -> Tensor:
        """``[batch, length, vocab_size]``: for tests and small uses."""
        hidden, _ = self(tokens)
        return F.linear(hidden, self.head.to(hidden.dtype)).view(*tokens.shape, -1)

    def attention_kernel(self, length: int, device_type: str) -> Kernel:
        """How attention over ``length`` tokens is computed."""
        apart = self.document_separator is not None
        return attention_kernel(self.architecture, length, device_type, self.compute_dtype, documents_apart=apart)

    def routers(self) -> Iterator[Router]:
        """The routers of the layers with experts, in order."""
        for module in self.modules():
            if isinstance(module, Router):
                yield module

    def _positions_of(self, tokens: Tensor) -> Positions:
        length = tokens.shape[1]
        kernel = self.attention_kernel(length, self.device_type or tokens.device.type)
        if (length, kernel) not in self._positions:
            made = Positions(self.architecture, length, tokens.device, self.compute_dtype, kernel)
            self._positions[length, kernel] = made
        positions = self._positions[length, kernel]
        if self.document_separator is None:
            return positions
        return positions.within_documents(tokens == self.document_separator)


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
    """Parameters of the built modules by role: what ``Architecture.params_by_role`` must say. Like that, without the
    multi-token-prediction modules."""
    counts = dict.fromkeys(model.architecture.params_by_role(), 0)
    for name, parameter in model.named_parameters():
        if name.startswith("multi_token."):
            continue
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        counts[role_of(name, layer >= 0 and model.architecture.is_moe_layer(layer))] += parameter.numel()
    return counts
