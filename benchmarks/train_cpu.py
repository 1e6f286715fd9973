"""Training speed on a CPU: this trainer beside transformers, same architecture, same weights, interleaved.

Run it on an otherwise idle machine: python benchmarks/train_cpu.py [--threads 2] [--rounds 12] [--compiled]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from scaling.console import print_table, say
from scaling.hf.write import hf_config
from trainer_small.architecture import Architecture
from trainer_small.hf_weights import to_hugging_face
from trainer_small.loss import linear_cross_entropy
from trainer_small.model import Model
from trainer_small.numerics import processor_name, set_matmul_precision

BATCH, LENGTH = 8, 256
COMMON = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_layers": 4,
    "num_attention_heads": 4,
    "num_experts": 16,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_ffn_size": 256,
    "router_score_function": "sigmoid",
    "router_selection_bias": True,
    "router_scaling_factor": 1.5,
    "moe_output_norm": True,
}
LATENT = {
    "attention": "mla",
    "q_lora_rank": 128,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
ARCHITECTURE = Architecture.parse(COMMON | LATENT, "benchmark")
"""A.X K1's form, small: every layer has experts."""

Step = Callable[[], tuple[float, float]]
"""Seconds and loss of one training step."""


def ours(architecture: Architecture, dtype: torch.dtype, state: dict[str, torch.Tensor]) -> Step:
    model = Model(architecture, compute_dtype=dtype)
    model.load_state_dict(state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> tuple[float, float]:
        set_matmul_precision(torch.device("cpu"), architecture.hidden_size)
        tokens = torch.randint(0, architecture.vocab_size, (BATCH, LENGTH + 1), generator=generator)
        started = time.perf_counter()
        hidden, _ = model(tokens[:, :-1])
        loss = linear_cross_entropy(hidden, model.head, tokens[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for router in model.routers():
            router.update_bias(0.0)
        return time.perf_counter() - started, loss.item()

    return step


def theirs(
    architecture: Architecture, dtype: torch.dtype, state: dict[str, torch.Tensor], precision: str, compiled: bool
) -> Step:
    content = hf_config(architecture, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content))
        weights = to_hugging_face(state, architecture, content["model_type"])
        save_file(weights, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, experts_implementation="grouped_mm"
        ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    call = torch.compile(model) if compiled else model
    generator = torch.Generator().manual_seed(0)

    def step() -> tuple[float, float]:
        torch.set_float32_matmul_precision(precision)
        tokens = torch.randint(0, architecture.vocab_size, (BATCH, LENGTH + 1), generator=generator)
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = call(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started, loss.item()

    return step


def gemm_peak(dtype: torch.dtype) -> float:
    """Best of several large products, FLOP/s."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--compiled", action="store_true", help="also transformers under torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    state = random_state(ARCHITECTURE)
    flops = ARCHITECTURE.flops_per_token(LENGTH) * BATCH * LENGTH
    rows = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        steps = {"ours, eager": ours(ARCHITECTURE, dtype, state)}
        variants = [("as shipped", "highest", False)]
        if name == "fp32":
            variants.append(("+ our kernel", "medium", False))
        if options.compiled:
            variants.append(("compiled", "highest", True))
        for label, precision, compiled in variants:
            steps[f"transformers {label}"] = theirs(ARCHITECTURE, dtype, state, precision, compiled)
        times: dict[str, list[float]] = {label: [] for label in steps}
        losses: dict[str, float] = {}
        for _ in range(options.rounds + 2):
            for label, step in steps.items():
                seconds, losses[label] = step()
                times[label].append(seconds)
        medians = {label: statistics.median(values[2:]) for label, values in times.items()}
        set_matmul_precision(torch.device("cpu"), ARCHITECTURE.hidden_size)
        peak = gemm_peak(dtype)
        for label, seconds in medians.items():
            rows.append(
                [
                    name,
                    label,
                    round(seconds * 1e3, 1),
                    round(BATCH * LENGTH / seconds),
                    round(seconds / medians["ours, eager"], 2),
                    f"{flops / seconds / peak:.0%}",
                    round(losses[label], 4),
                ]
            )
    title = f"{processor_name()}, {options.threads} threads, torch {torch.__version__}, "
    title += f"transformers {transformers.__version__}, {platform.system()}; medians of {options.rounds} steps"
    print_table(
        ["type", "trainer", "ms a step", "tokens/s", "time / ours", "of GEMM peak", "last loss"], rows, title=title
    )
    say(f"A.X K1's form: {ARCHITECTURE.params_total:,} parameters, {ARCHITECTURE.params_active:,} active")


if __name__ == "__main__":
    main()
