"""Causal self-attention: grouped-query (arXiv 2305.13245) and multi-head latent (arXiv 2405.04434)."""

from copy import copy
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer_small.architecture import Architecture
from trainer_small.machine.run_memory import EXPLICIT_ATTENTION_BELOW
from trainer_small.model.norm import RMSNorm
from trainer_small.model.rotary import rotary_table, rotate, turned

Kernel = Literal["explicit", "flash", "efficient", "flex", "cpu"]
"""``explicit``: batched products that keep the probabilities; ``flash`` and ``efficient``: PyTorch's fused kernels on
CUDA; ``flex``: FlexAttention, which skips the blocks between documents; ``cpu``: PyTorch's fused kernel there."""

_FLASH_HEAD = 256
_BLOCK = 128


def attention_kernel(
    architecture: Architecture, length: int, device_type: str, dtype: torch.dtype, *, documents_apart: bool = False
) -> Kernel:
    """How attention over ``length`` tokens is computed.

    Flash knows 16-bit types and heads of up to 256 numbers. PyTorch's plain kernel, which holds a table of all scores,
    is left to heads that are not whole 16 bytes.
    """
    if device_type != "cuda":
        return "explicit" if length <= EXPLICIT_ATTENTION_BELOW else "cpu"
    if documents_apart:
        return "flex"
    largest = architecture.head_dim
    if architecture.attention == "mla":
        largest = max(architecture.qk_nope_head_dim + architecture.qk_rope_head_dim, architecture.v_head_dim)
    return "flash" if dtype.itemsize == 2 and largest <= _FLASH_HEAD else "efficient"


class Positions:
    """The rotary table and, where the kernel wants one, the causal mask of one length, shared by all layers.

    Made outside of what is compiled: a compiler would have to look at them again at every call.

    Attributes:
        cos, sin: ``[length, 1, size]``, or ``[batch, length, 1, size]`` where documents start at position 0.
        documents: ``[batch, length]``, the document of each token where they do not see each other, else None.
    """

    def __init__(
        self,
        architecture: Architecture,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
        kernel: Kernel | None = None,
    ) -> None:
        mla = architecture.attention == "mla"
        size = architecture.qk_rope_head_dim if mla else architecture.head_dim
        self.cos, self.sin = rotary_table(length, size, architecture.rope_theta, device, dtype)
        self.kv_heads = architecture.num_attention_heads if mla else architecture.num_key_value_heads
        self.queries_per_key = architecture.num_attention_heads // self.kv_heads
        self.kernel: Kernel = kernel or attention_kernel(architecture, length, device.type, dtype)
        self.mask: Tensor | None = None
        if self.kernel == "explicit":
            mask = torch.full((length, length), -torch.inf, device=device, dtype=dtype).triu_(1)
            self.mask = mask.repeat(self.queries_per_key, 1)
        self.documents: Tensor | None = None
        self.block_mask: Any = None

    def within_documents(self, starts: Tensor) -> "Positions":
        """The same where tokens see their own document alone.

        Args:
            starts: ``[batch, length]``, true at the first token of each document.
        """
        length = starts.shape[1]
        own = copy(self)
        own.documents = starts.cumsum(1)
        place = torch.arange(length, device=starts.device)
        place = place - torch.where(starts, place, 0).cummax(1).values
        own.cos, own.sin = self.cos[place], self.sin[place]
        if self.kernel == "flex":
            own.block_mask = _document_blocks(own.documents)
        elif self.mask is not None:
            apart = own.documents.unsqueeze(2) != own.documents.unsqueeze(1)
            mask = self.mask[:length].masked_fill(apart, -torch.inf)
            own.mask = mask.repeat(1, self.queries_per_key, 1).repeat_interleave(self.kv_heads, 0)
        return own


class GroupedQueryAttention(nn.Module):
    """Query, key and value projections are one matrix, rows in that order."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.heads, self.kv_heads = architecture.num_attention_heads, architecture.num_key_value_heads
        self.head_dim = architecture.head_dim
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv_proj = nn.Linear(architecture.hidden_size, rows, bias=architecture.attention_bias)
        self.o_proj = nn.Linear(
            self.heads * self.head_dim, architecture.hidden_size, bias=architecture.attention_output_bias
        )
        self.norms = architecture.qk_norm
        if self.norms != "none":
            per_head = self.norms == "per_head"
            self.q_norm = RMSNorm(self.head_dim * (1 if per_head else self.heads), architecture.norm_eps)
            self.k_norm = RMSNorm(self.head_dim * (1 if per_head else self.kv_heads), architecture.norm_eps)

    def forward(self, x: Tensor, batch: int, positions: Positions) -> Tensor:
        """``x [batch * length, hidden]`` to the same shape."""
        size, heads, kv_heads = self.head_dim, self.heads, self.kv_heads
        qkv = linear(x, self.qkv_proj).view(batch, -1, heads + 2 * kv_heads, size)
        q, k, v = qkv.split((heads, kv_heads, kv_heads), 2)
        if self.norms != "none":
            q, k = self._norm(self.q_norm, q), self._norm(self.k_norm, k)
        out = attend(q, k, v, positions, rotary=True)
        return linear(out.reshape(*x.shape[:-1], heads * size), self.o_proj)

    def _norm(self, norm: RMSNorm, x: Tensor) -> Tensor:
        return norm(x) if self.norms == "per_head" else norm(x.flatten(2)).view(x.shape)


class LatentAttention(nn.Module):
    """Keys and values from a shared low-rank latent; a small rotary key is shared by all heads."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.heads, self.nope, self.rope = a.num_attention_heads, a.qk_nope_head_dim, a.qk_rope_head_dim
        self.value, self.latent = a.v_head_dim, a.kv_lora_rank
        rows = self.heads * (self.nope + self.rope)
        if a.q_lora_rank is None:
            self.q_proj = nn.Linear(a.hidden_size, rows, bias=False)
        else:
            self.q_a_proj = nn.Linear(a.hidden_size, a.q_lora_rank, bias=a.attention_bias)
            self.q_a_norm = RMSNorm(a.q_lora_rank, a.norm_eps)
            self.q_b_proj = nn.Linear(a.q_lora_rank, rows, bias=False)
        self.kv_a_proj = nn.Linear(a.hidden_size, self.latent + self.rope, bias=a.attention_bias)
        self.kv_a_norm = RMSNorm(self.latent, a.norm_eps)
        self.kv_b_proj = nn.Linear(self.latent, self.heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value, a.hidden_size, bias=a.attention_output_bias)
        self.low_rank_queries = a.q_lora_rank is not None

    def forward(self, x: Tensor, batch: int, positions: Positions) -> Tensor:
        """``x [batch * length, hidden]`` to the same shape."""
        if self.low_rank_queries:
            q = linear(self.q_a_norm(linear(x, self.q_a_proj)), self.q_b_proj)
        else:
            q = linear(x, self.q_proj)
        q = q.view(batch, -1, self.heads, self.nope + self.rope)
        latent, k_rope = linear(x, self.kv_a_proj).split((self.latent, self.rope), -1)
        kv = linear(self.kv_a_norm(latent), self.kv_b_proj).view(batch, -1, self.heads, self.nope + self.value)
        k_nope, v = kv.split((self.nope, self.value), -1)
        k_rope = rotate(k_rope.reshape(batch, -1, 1, self.rope), positions.cos, positions.sin)
        q_rope = rotate(q[..., self.nope :], positions.cos, positions.sin)
        q = torch.cat((q[..., : self.nope], q_rope), -1)
        k = torch.cat((k_nope, k_rope.expand(-1, -1, self.heads, -1)), -1)
        out = attend(q, k, v, positions, rotary=False)
        return linear(out.reshape(*x.shape[:-1], self.heads * self.value), self.o_proj)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer at the activations' type: parameters are float32, products may be bfloat16."""
    return affine(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x [n, in] @ weight [out, in].T + bias``; for a stack of models all three have one more axis before."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    out = torch.bmm(x, weight.mT)
    return out if bias is None else out + bias.unsqueeze(1)


def attend(q: Tensor, k: Tensor, v: Tensor, positions: Positions, *, rotary: bool) -> Tensor:
    """Causal attention.

    Args:
        q: ``[batch, length, heads, size]``; k, v: ``[batch, length, kv_heads, size or value size]``.
        rotary: rotate queries and keys by their positions first.

    Returns:
        ``[batch, length, heads, value size]``.
    """
    if positions.kernel == "explicit":
        cos, sin = (_over_heads(positions.cos), _over_heads(positions.sin)) if rotary else (None, None)
        return _Attend.apply(q, k, v, cos, sin, positions.mask)
    if rotary:
        q, k = rotate(q, positions.cos, positions.sin), rotate(k, positions.cos, positions.sin)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    gqa = q.shape[1] != k.shape[1]
    if positions.kernel == "flex":
        return _flex(q, k, v, block_mask=positions.block_mask, enable_gqa=gqa).transpose(1, 2)
    if gqa and positions.kernel == "efficient":  # which does not know that queries share keys
        k, v = (part.repeat_interleave(positions.queries_per_key, 1) for part in (k, v))
        gqa = False
    value_size = v.shape[-1]
    if positions.kernel == "flash" and value_size != q.shape[-1]:  # it wants values as wide as keys
        v = F.pad(v, (0, q.shape[-1] - value_size))
    same = None
    if positions.documents is not None:
        same = (positions.documents.unsqueeze(2) == positions.documents.unsqueeze(1)).tril().unsqueeze(1)
    out = F.scaled_dot_product_attention(q, k, v, same, is_causal=same is None, enable_gqa=gqa)
    return out[..., :value_size].transpose(1, 2)


def _document_blocks(documents: Tensor) -> BlockMask:
    """FlexAttention's sparse form of the mask: blocks between documents are never computed.

    Documents are in order, so that the first and last token of a block say which others it sees; a table of all pairs
    of tokens, as PyTorch's own function makes, is not needed.
    """
    length = documents.shape[1]
    padded = F.pad(documents, (0, -length % _BLOCK), mode="replicate")
    first, last = padded[:, ::_BLOCK], padded[:, _BLOCK - 1 :: _BLOCK]
    at = torch.arange(first.shape[1], device=documents.device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[batch, query] == documents[batch, key])

    before = at.unsqueeze(1) > at
    whole = before & (first.unsqueeze(1) == last.unsqueeze(2))
    partly = (at.unsqueeze(1) >= at) & (first.unsqueeze(2) <= last.unsqueeze(1)) & ~whole
    return BlockMask.from_kv_blocks(
        *_listed(partly),
        *_listed(whole),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For a table ``[batch, queries, keys]``: how many keys each query has, and which, these first; for all heads."""
    order = blocks.byte().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32).unsqueeze(1), order.to(torch.int32).unsqueeze(1)


def _flex(q: Tensor, k: Tensor, v: Tensor, **keys: Any) -> Tensor:
    if torch.compiler.is_compiling() or not q.is_cuda:
        return flex_attention(q, k, v, **keys)
    return _compiled_flex()(q, k, v, **keys)  # uncompiled it would hold all scores


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def _over_heads(table: Tensor) -> Tensor:
    """``[..., length, 1, size]`` for tensors ``[batch, kv heads, heads of each, length, size]``."""
    table = table.squeeze(-2)
    return table if table.dim() == 2 else table[:, None, None]


class _Attend(torch.autograd.Function):
    """Rotation and masked softmax attention by batched products; keeps the probabilities for the backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, heads, size = q.shape
        kv_heads = k.shape[2]
        # Queries that share a key head stand below each other, so that keys and values are not repeated.
        q = q.reshape(batch, length, kv_heads, -1, size).permute(0, 2, 3, 1, 4).contiguous()
        k, v = (part.transpose(1, 2).contiguous() for part in (k, v))
        if cos is not None:
            q, k = turned(q, cos, sin), turned(k.unsqueeze(2), cos, sin).squeeze(2)
        q, k, v = q.view(batch * kv_heads, -1, size), k.flatten(0, 1), v.flatten(0, 1)
        scores = torch.baddbmm(mask, q, k.mT, alpha=size**-0.5)
        probabilities = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, cos, sin, probabilities)
        ctx.shape = batch, length, heads, kv_heads
        out = torch.bmm(probabilities, v).view(batch, kv_heads, -1, length, v.shape[-1])
        return out.permute(0, 3, 1, 2, 4).reshape(batch, length, heads, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, probabilities = ctx.saved_tensors
        batch, length, heads, kv_heads = ctx.shape
        grad = grad.view(batch, length, kv_heads, heads // kv_heads, -1).permute(0, 2, 3, 1, 4)
        grad = grad.reshape(batch * kv_heads, -1, v.shape[-1])
        grad_v = torch.bmm(probabilities.mT, grad)
        scores = torch.bmm(grad, v.mT)
        scores = torch.ops.aten._softmax_backward_data(scores, probabilities, -1, probabilities.dtype)
        scale = q.shape[-1] ** -0.5
        grad_q = torch.bmm(scores, k).mul_(scale).view(batch, kv_heads, -1, length, q.shape[-1])
        grad_k = torch.bmm(scores.mT, q).mul_(scale).view(batch, kv_heads, length, -1)
        if cos is not None:
            grad_q = turned(grad_q, cos, -sin)
            grad_k = turned(grad_k.unsqueeze(2), cos, -sin).squeeze(2)
        grad_q = grad_q.permute(0, 3, 1, 2, 4).flatten(2, 3)
        grad_v = grad_v.view(batch, kv_heads, length, -1)
        return grad_q, grad_k.transpose(1, 2), grad_v.transpose(1, 2), None, None, None
