"""Kernels of causal attention beside each other, forward and backward of one layer in bf16, to choose one by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.timing import seconds_of

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True)
class Heads:
    name: str
    heads: int
    kv_heads: int
    size: int
    value_size: int


HEADS = (
    Heads("GQA, heads of 64", 16, 4, 64, 64),
    Heads("GQA, heads of 128", 16, 4, 128, 128),
    Heads("MLA, keys of 192, values of 128", 16, 16, 192, 128),
)


def kernels(device: torch.device) -> list[str]:
    """Those that the device has; a CPU's fused one goes by flash's name."""
    return [*_BACKENDS, "flex"] if device.type == "cuda" else ["flash"]


def measure(heads: Heads, kernel: str, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Seconds and FLOP/s of one layer's attention, causal half counted; values are padded where the kernel wants it."""
    batch, length = (1, 128) if tiny else (8, 2048)

    def made(count: int, size: int) -> Tensor:
        x = torch.randn(batch, count, length, size, device=device, dtype=torch.bfloat16)
        return x.requires_grad_()

    q, k = made(heads.heads, heads.size), made(heads.kv_heads, heads.size)
    v = made(heads.kv_heads, heads.value_size)
    call = _call(heads, kernel, device, length)
    grad = torch.randn_like(call(q, k, v))

    def step() -> None:
        call(q, k, v).backward(grad)
        q.grad = k.grad = v.grad = None

    seconds = seconds_of(step, device, steps=3 if tiny else 10, warm_up=2)
    # Two products forward, five backward (scores once more), half of each below the diagonal.
    per_pair = 2 * heads.size + 2 * heads.value_size + 6 * heads.size + 4 * heads.value_size
    flops = per_pair * batch * heads.heads * length**2 / 2
    return {"heads": heads.name, "kernel": kernel, "seconds": seconds, "flops_per_second": flops / seconds}


def _call(heads: Heads, kernel: str, device: torch.device, length: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    gqa = heads.heads != heads.kv_heads
    if kernel == "flex":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask = create_block_mask(lambda b, h, query, key: query >= key, None, None, length, length, device=device.type)
        flex: Any = torch.compile(flex_attention, dynamic=False) if device.type == "cuda" else flex_attention
        return lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=gqa)
    repeat = heads.heads // heads.kv_heads if kernel == "efficient" else 1  # which knows no shared keys

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if repeat > 1:
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        padding = heads.size - heads.value_size if kernel == "flash" else 0
        with sdpa_kernel(_BACKENDS[kernel]):
            out = F.scaled_dot_product_attention(
                q, k, F.pad(v, (0, padding)), is_causal=True, enable_gqa=gqa and repeat == 1
            )
        return out[..., : heads.value_size]

    return call
