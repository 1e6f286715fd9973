"""Who ``cpu_speed.py`` measures: each subject makes one training step and says how long it took."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.trainer.forms import EXPERTS
from scaling.hf.write import hf_config
from trainer_small.architecture import Architecture
from trainer_small.machine.numerics import set_matmul_precision
from trainer_small.model.hf_weights import to_hugging_face
from trainer_small.model.model import Model
from trainer_small.steps.compiled import compile_model
from trainer_small.steps.objective import training_loss

COMMON = EXPERTS | {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_layers": 4,
    "num_attention_heads": 4,
    "router_scaling_factor": 1.5,
    "moe_output_norm": True,
}


Step = Callable[[], float]
"""Seconds of one training step."""


@dataclass(frozen=True)
class Setting:
    """What all subjects of a comparison train."""

    architecture: Architecture
    dtype: torch.dtype
    batch: int
    length: int
    threads: int
    nanomoe: Path | None = None


def make(name: str, setting: Setting, state: dict[str, torch.Tensor]) -> Step:
    """The subject of this name."""
    if name.startswith("ours"):
        return ours(setting, state, compiled="compiled" in name)
    if name == "nanoMoE":
        return nanomoe(setting)
    return theirs(setting, state, compiled="compiled" in name, own="our settings" in name)


def serve(connection: Connection, names: list[str], setting: Setting) -> None:
    """A process with these subjects: takes a step of the one that is named, and measures a product for ``""``."""
    torch.set_num_threads(setting.threads)
    logging.disable_progress_bar()
    state = random_state(setting.architecture)
    names = sorted(names, key=lambda name: not name.startswith("ours"))  # compiling ours forgets others' graphs
    steps = {name: make(name, setting, state) for name in names}
    while (name := connection.recv()) is not None:
        connection.send(steps[name]() if name else gemm_flops(setting.dtype))


def gemm_flops(dtype: torch.dtype) -> float:
    """Best of several large products with the faster float32 kernel, FLOP/s."""
    torch.set_float32_matmul_precision("medium" if dtype == torch.float32 else "highest")
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def random_state(architecture: Architecture) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = Model(architecture).state_dict()
    for tensor in state.values():
        if tensor.dim() > 1:
            torch.nn.init.normal_(tensor, std=tensor.shape[-1] ** -0.5)
    return state


def ours(setting: Setting, state: dict[str, torch.Tensor], *, compiled: bool) -> Step:
    architecture, dtype = setting.architecture, setting.dtype
    model = Model(architecture, compute_dtype=dtype)
    model.load_state_dict(state)
    if compiled:
        compile_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = _random_tokens(setting)

    def step() -> float:
        set_matmul_precision(torch.device("cpu"), architecture.hidden_size)
        torch.use_deterministic_algorithms(compiled)  # as compile_model has it
        windows = tokens()
        started = time.perf_counter()
        training_loss(model, windows)[1].backward()
        optimizer.step()
        optimizer.zero_grad()
        for router in model.routers():
            router.end_batch(0.0)
        return time.perf_counter() - started

    return step


def theirs(setting: Setting, state: dict[str, torch.Tensor], *, compiled: bool, own: bool) -> Step:
    """transformers' class with the same weights; ``own``: with our choice of kernel."""
    architecture, dtype = setting.architecture, setting.dtype
    content = hf_config(architecture, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content))
        weights = to_hugging_face(state, architecture, content["model_type"])
        save_file(weights, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, experts_implementation="grouped_mm"
        ).train()
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = _random_tokens(setting)

    def step() -> float:
        torch.set_float32_matmul_precision("medium" if own and dtype == torch.float32 else "highest")
        torch.use_deterministic_algorithms(False)
        windows = tokens()
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = call(input_ids=windows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def nanomoe(setting: Setting) -> Step:
    """nanoMoE as shipped, every layer with experts, their width such that active parameters are equal."""
    architecture, dtype = setting.architecture, setting.dtype
    sys.path.insert(0, str(setting.nanomoe))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    config = GPTConfig(
        block_size=setting.length,
        vocab_size=architecture.vocab_size,
        n_layer=architecture.num_layers,
        n_head=architecture.num_attention_heads,
        n_embd=architecture.hidden_size,
        n_exp=architecture.num_experts,
        top_k=architecture.experts_per_token,
        stride=1,
        use_aux_loss=True,
        use_router_z_loss=True,
        use_noisy_top_k=False,
        dropout=0.0,
        bias=False,
    )
    model = GPT(config).train()
    a = architecture  # its experts have two matrices, ours three and one expert more that all tokens take
    width = 3 * (a.experts_per_token + a.num_shared_experts) * a.expert_ffn_size // (2 * a.experts_per_token)
    for module in model.modules():
        if hasattr(module, "c_fc") and isinstance(module.c_fc, torch.nn.Parameter):
            module.c_fc = torch.nn.Parameter(torch.randn(a.num_experts, a.hidden_size, width) * 0.02)
            module.c_proj = torch.nn.Parameter(torch.randn(a.num_experts, width, a.hidden_size) * 0.02)
    optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.95), "cpu")  # its own, as its training script has it
    tokens = _random_tokens(setting)

    def step() -> float:
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
        windows = tokens()
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def _random_tokens(setting: Setting) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = setting.batch, setting.length + 1
    return lambda: torch.randint(0, setting.architecture.vocab_size, shape, generator=generator)
