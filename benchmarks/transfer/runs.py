"""The runs of the transfer study: what varies in each stage, around one base model, and how they are trained.

Base: 4 layers, 64 wide, 8 experts of which a token visits 2, 1 shared expert, experts as wide as the model; bytes of
Python source, batches of 2,048, 300 steps, WSD.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.byte_tokenizer import save_byte_tokenizer
from trainer_small.architecture import Architecture
from trainer_small.config import DataConfig, EvaluationConfig, RunConfig, RunSpec, TrainingConfig, Trunk
from trainer_small.data.tokens import prepare_tokens
from trainer_small.result import is_final
from vocab_study.corpus.corpus import build_corpus

BATCH, STEPS = 2048, 300
SEEDS = (0, 1, 2)
WIDE_SEEDS = (0, 1, 2, 3, 4)
HORIZONS = (600, 1200, 2400, 4800)
FINE_HORIZONS = (1200, 4800)
GRID_WIDTHS = (32, 64, 96)
BEST = -7.0
"""log2 of the rate at which the stages that vary something else are trained."""
VARIANTS: dict[str, dict[str, Any]] = {
    "rule": {},
    "embedding rate / 64": {"embedding_rate_factor": 1.0},
    "gates sum to 1": {"router_scaling_factor": 1.0},
    "gates x 2.5": {"router_scaling_factor": 2.5},
    "output norm": {"moe_output_norm": True},
    "router starts x 10": {"router_init_std": 0.2},
    "router rate x 4": {"router_rate_factor": 4.0},
    "router rate / 4": {"router_rate_factor": 0.25},
    "expert rate x 2": {"expert_rate_factor": 2.0},
    "expert rate / 2": {"expert_rate_factor": 0.5},
    "branches start at 0": {"branch_init_factor": 0.0},
    "bias rate 0.001": {"balancing_rate": 0.001},
    "softmax gate": {"router_score_function": "softmax"},
}
GATES: dict[str, tuple[float | None, str]] = {
    "rule": (None, "sqrt(k)"),
    "gates sum to 1": (1.0, "1"),
    "gates sum to 1.41": (2**0.5, "sqrt(2)"),
}
"""What the gates of a token's k experts sum to as experts get finer, and how the table says it."""
MUON_RATES = (-5, -4, -3, -6, -7)
"""log2 of the rate of Muon's matrices, the default first; the rest keeps its rate."""
FIRST = ("gates sum to 1", "bias rate 0.001", "output norm", "softmax gate", "embedding rate / 64")
"""Variants whose other seeds come first."""


def spec(
    *,
    hidden: int = 64,
    layers: int = 4,
    experts: int = 8,
    pieces: int = 1,
    rate: float = BEST,
    seed: int = 0,
    steps: int = STEPS,
    saved_at: tuple[int, ...] = (),
    trunk: tuple[str, int] | None = None,
    variant: str = "rule",
    **changes: Any,
) -> RunSpec:
    """One run; ``pieces`` cuts every expert into as many at the same active width; ``rate`` is a power of two."""
    changes = VARIANTS.get(variant, {}) | changes
    shape = {key: changes.pop(key) for key in list(changes) if key in Architecture.model_fields}
    architecture = {
        "vocab_size": 264,
        "hidden_size": hidden,
        "num_layers": layers,
        "num_attention_heads": max(2, hidden // 32),
        "num_experts": experts * pieces,
        "experts_per_token": 2 * pieces,
        "num_shared_experts": pieces,
        "expert_ffn_size": hidden // pieces,
        "router_score_function": "sigmoid",
        "router_selection_bias": True,
        "router_scaling_factor": (2 * pieces) ** 0.5,
    }
    words = [f"d{hidden}", f"l{layers}", f"e{experts}", f"p{pieces}", f"r{rate:g}", f"n{steps}"]
    words += [variant.replace(" ", "_").replace("/", "by")] * (variant != "rule")
    words += ["standard"] * (changes.get("parametrization") == "standard") + [f"s{seed}"]
    recipe = {"tokens": steps * BATCH, "batch_tokens": BATCH, "learning_rate": 2.0**rate, "balancing_rate": 0.01}
    return RunSpec(
        run_id="-".join(words),
        purpose=variant,
        architecture=Architecture.model_validate(architecture | shape),
        training=TrainingConfig.model_validate(recipe | {"warmup_tokens": 15 * BATCH} | changes),
        evaluation=EvaluationConfig(validation_bytes=2**18),
        seed=seed,
        device="cpu",
        saved_at=tuple(step * BATCH for step in saved_at),
        trunk=Trunk(run_id=trunk[0], tokens=trunk[1] * BATCH) if trunk else None,
    )


def stages() -> dict[str, list[RunSpec]]:
    """All runs, in the order in which they say most."""
    return {
        "width": list(_width(64)),
        "experts": list(_experts(64, VARIANTS, SEEDS[:1])),
        "wide": list(_width(128)),
        "seeds": list(_experts(64, ("rule",), SEEDS)),
        "grid": list(_grid()),
        "wide seeds": list(_experts(128, ("rule",), WIDE_SEEDS)),
        "variant seeds": list(_experts(64, FIRST, SEEDS)),
        "granularity": list(_granularity()),
        "muon": list(_muon()),
        "muon seeds": list(_muon_seeds()),
        "muon granularity": list(_muon_granularity()),
        "longer": list(_longer()),
        "longer granularity": list(_longer_granularity()),
        "standard": list(_standard(64, (-9, -8, -10))),
        "wide variants": list(_experts(128, (*FIRST, "expert rate / 2"), SEEDS[:1])),
        "horizon": list(_horizon()),
        "depth": list(_depth()),
        "other seeds": list(_experts(64, VARIANTS, SEEDS[1:])),
        "wide standard": list(_standard(128, (-10, -9, -11))),
    }


def _width(hidden: int) -> Iterator[RunSpec]:
    for rate in (-8, -7, -6, -9):
        for experts in (8, 32):
            yield spec(hidden=hidden, experts=experts, rate=rate)


def _experts(hidden: int, variants: Iterable[str], seeds: tuple[int, ...]) -> Iterator[RunSpec]:
    for variant in variants:
        for seed in seeds:
            for experts in (8, 32):
                yield spec(hidden=hidden, experts=experts, variant=variant, seed=seed)


def _grid() -> Iterator[RunSpec]:
    """Three sizes at four horizons; the smallest with three seeds, for the noise."""
    for hidden in GRID_WIDTHS:
        yield from _horizons(hidden=hidden)
    for seed in SEEDS[1:]:
        yield from _horizons(hidden=GRID_WIDTHS[0], seed=seed)


def _horizon() -> Iterator[RunSpec]:
    for rate in (-8, -6):
        yield from _horizons(hidden=GRID_WIDTHS[0], rate=rate)


def _horizons(
    make: Callable[..., RunSpec] = spec, horizons: tuple[int, ...] = HORIZONS, **keys: Any
) -> Iterator[RunSpec]:
    """A trunk as long as the longest horizon, and a branch for each of the others."""
    *shorter, longest = horizons
    leaves = tuple(round(0.8 * steps) for steps in shorter)
    trunk = make(steps=longest, saved_at=leaves, **keys)
    yield trunk
    for steps, leave in zip(shorter, leaves, strict=True):
        yield make(steps=steps, trunk=(trunk.run_id, leave), **keys)


def _granularity() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for pieces in (2, 4):
            for variant, (constant, _) in GATES.items():
                changes = {"router_scaling_factor": constant} if constant else {}
                yield spec(pieces=pieces, variant=variant, seed=seed, **changes)


def _muon() -> Iterator[RunSpec]:
    for rate in MUON_RATES:
        for hidden, experts in ((64, 8), (64, 32), (128, 8)):
            yield _with_muon(rate, hidden=hidden, experts=experts)


def _muon_seeds() -> Iterator[RunSpec]:
    for hidden in (64, 128):
        for seed in SEEDS:
            for experts in (8, 32):
                yield _with_muon(MUON_RATES[0], hidden=hidden, experts=experts, seed=seed)


def _muon_granularity() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for pieces in (2, 4):
            yield _with_muon(MUON_RATES[0], pieces=pieces, seed=seed)
            yield _with_muon(MUON_RATES[0], pieces=pieces, seed=seed, gates="gates sum to 1")


def _longer() -> Iterator[RunSpec]:
    """Four times the steps at width 128: do more experts help once each has seen more?"""
    for seed in SEEDS:
        for experts in (8, 32):
            yield _with_muon(MUON_RATES[0], hidden=128, experts=experts, seed=seed, steps=4 * STEPS)


def _longer_granularity() -> Iterator[RunSpec]:
    """Do finer experts help once each has seen more?"""
    for seed in SEEDS[:2]:
        for pieces in (4, 1, 2):
            yield from _horizons(_with_muon, FINE_HORIZONS, rate=MUON_RATES[0], pieces=pieces, seed=seed)


def _with_muon(rate: int, gates: str = "rule", **keys: Any) -> RunSpec:
    changes = {"optimizer": "muon", "muon_learning_rate": 2.0**rate} | VARIANTS[gates]
    variant = f"muon 2^{rate}" + (f" {gates}" if gates != "rule" else "")
    return spec(variant=variant, **keys, **changes)


def _depth() -> Iterator[RunSpec]:
    for layers in (2, 8):
        for rate in (-7, -8, -6):
            yield spec(layers=layers, rate=rate)


def _standard(hidden: int, rates: tuple[int, ...]) -> Iterator[RunSpec]:
    for rate in rates:
        for experts in (8, 32):
            yield spec(hidden=hidden, experts=experts, rate=rate, parametrization="standard")


def prepare(out: Path) -> None:
    """The standard library as bytes."""
    build_corpus(["python:stdlib"], out / "corpus")
    save_byte_tokenizer(out / "bytes.json")
    prepare_tokens(out / "corpus", out / "bytes.json", out / "tokens")


def next_run(out: Path, wanted: list[str]) -> Path | None:
    """Lay out the first run that is not done; ``None`` when all are."""
    for stage, runs in stages().items():
        for run in runs if not wanted or stage in wanted else ():
            directory = out / run.run_id
            if is_final(directory):
                continue
            config = RunConfig(
                **{name: getattr(run, name) for name in RunSpec.model_fields}, data=DataConfig(tokens="../tokens")
            )
            config.save(directory / "config.yaml")
            return directory
    return None
