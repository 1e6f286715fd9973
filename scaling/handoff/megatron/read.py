"""MODEL_ARGS -> the run: what a Megatron-LM file says, with that stack's own defaults for flags left out."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fits.errors import UserError, nearest
from fits.files import read_mapping, read_text
from scaling.cluster.run import Ramp, Run
from scaling.handoff.fields import Values
from scaling.handoff.megatron.patterns import parse_layer_pattern, parse_pipeline_layout
from scaling.handoff.megatron.write import WSD_SHAPES
from scaling.plan import Layout
from trainer_small.architecture import Architecture

_FLAGS = Path(__file__).with_name("flags.txt")


def read_megatron(path: str | Path) -> Run:
    """Read a file of ``ENV_VARS`` and ``MODEL_ARGS`` back into the run it describes.

    Raises:
        UserError: a flag that Megatron-LM does not have, one that is missing or impossible, or a layer pattern or
            pipeline layout that does not add up.
    """
    content = read_mapping(path)
    flags = content.get("MODEL_ARGS")
    if not isinstance(flags, dict):
        raise UserError(f"{path}: key 'MODEL_ARGS' is missing or no map of flags; add it.")
    _check_names(flags, path)
    environment = content.get("ENV_VARS") or {}
    if not isinstance(environment, dict):
        raise UserError(f"{path}: key 'ENV_VARS' is {environment!r}: must be a map of variables.")
    return run_of_flags(flags, environment, path)


def run_of_flags(flags: Mapping[str, Any], environment: Mapping[str, Any], path: str | Path) -> Run:
    """The run that flags describe; GPUS in ``environment`` says for how many.

    Raises:
        UserError: a flag is missing or impossible, or a layer pattern or pipeline layout does not add up.
    """
    reader = Values(flags, path, "flag")
    model = _model(reader)
    layout, stage_layers = _layout(reader, environment, model)
    batch = reader.whole("--global-batch-size", least=1)
    samples = _samples(reader, "--train", batch)
    until = _samples(reader, "--lr-decay", batch, samples)
    warmup = _samples(reader, "--lr-warmup", batch, int(reader.number("--lr-warmup-fraction", 0.0) * until))
    wsd = reader.get("--lr-decay-style", "linear") == "WSD"
    decay = _samples(reader, "--lr-wsd-decay", batch) if wsd else until - warmup
    return Run(
        model=model,
        sequence_length=reader.whole("--seq-length"),
        batch_size=batch,
        batch_ramp=_ramp(reader),
        steps=samples // batch,
        warmup_steps=warmup // batch,
        decay_steps=decay // batch,
        schedule="wsd" if wsd else "cosine",
        decay_shape=_decay_shape(reader) if wsd else "sqrt",
        learning_rate=reader.number("--lr"),
        min_learning_rate=reader.number("--min-lr", 0.0),
        beta1=reader.number("--adam-beta1", 0.9),
        beta2=reader.number("--adam-beta2", 0.999),
        epsilon=reader.number("--adam-eps", 1e-8),
        weight_decay=reader.number("--weight-decay", 0.01),
        grad_clip=reader.number("--clip-grad", 1.0),
        init_std=reader.number("--init-method-std", 0.02),
        precision="fp8" if reader.get("--fp8-format") else "bf16" if reader.get("--bf16") else "fp32",
        layout=layout,
        stage_layers=stage_layers,
    )


def _decay_shape(flags: Values) -> Literal["sqrt", "linear"]:
    written = flags.get("--lr-wsd-decay-style", "exponential")
    for shape, name in WSD_SHAPES.items():
        if written == name:
            return shape
    raise UserError(
        f"{flags.path}: flag '--lr-wsd-decay-style' is {written!r}, which no plan has; "
        f"use one of {', '.join(WSD_SHAPES.values())}."
    )


def _samples(flags: Values, name: str, batch: int, default: int | None = None) -> int:
    """A length that Megatron-LM takes in samples or in iterations."""
    if flags.get(f"{name}-iters") is not None:
        return flags.whole(f"{name}-iters") * batch
    return flags.whole(f"{name}-samples", default)


def _check_names(flags: Mapping[str, Any], path: str | Path) -> None:
    known = [line for line in read_text(_FLAGS).splitlines() if line.startswith("--")]
    for flag in flags:
        if flag not in known:
            raise UserError(f"{path}: Megatron-LM has no flag '{flag}'{nearest(flag, known)}; rename or remove it.")


def _model(flags: Values) -> Architecture:
    for flag, only in (("--swiglu", True), ("--disable-bias-linear", True), ("--normalization", "RMSNorm")):
        if flags.get(flag) != only:
            raise UserError(
                f"{flags.path}: flag '{flag}' is {flags.get(flag)!r}; only models with {only!r} are understood here."
            )
    layers, heads = flags.whole("--num-layers"), flags.whole("--num-attention-heads")
    values: dict[str, Any] = {
        "vocab_size": _vocab_size(flags),
        "hidden_size": flags.whole("--hidden-size"),
        "num_layers": layers,
        "num_attention_heads": heads,
        "tied_embeddings": not flags.get("--untie-embeddings-and-output-weights"),
        "norm_eps": flags.number("--norm-epsilon", 1e-5),
        "rope_theta": flags.number("--rotary-base", 10000),
        "dense_ffn_size": _ffn_size(flags),
    }
    values |= _attention(flags, heads)
    if flags.get("--num-experts"):
        values |= _experts(flags, layers)
    try:
        model = Architecture.parse(values, flags.path)
    except UserError as error:
        raise UserError(_in_flags(str(error))) from None
    no_dense = model.num_moe_layers == layers
    return model.model_copy(update={"dense_ffn_size": 0}) if no_dense else model


def _vocab_size(flags: Values) -> int:
    """What any tokenizer up to that size is padded to, or --vocab-size padded, unless the padded size is given."""
    if flags.get("--padded-vocab-size") is not None:
        return flags.whole("--padded-vocab-size", least=1)
    multiple = flags.whole("--make-vocab-size-divisible-by", 128, least=1)
    multiple *= flags.whole("--tensor-model-parallel-size", 1, least=1)
    return -(-flags.whole("--vocab-size", 1) // multiple) * multiple


def _ffn_size(flags: Values) -> int:
    """Left out, it is two thirds of four times the width, in steps of 64."""
    return flags.whole("--ffn-hidden-size", int(flags.whole("--hidden-size") * 4 * 2 / 3 / 64) * 64)


def _attention(flags: Values, heads: int) -> dict[str, Any]:
    if flags.get("--multi-latent-attention"):
        rank = flags.get("--q-lora-rank")
        return {
            "attention": "mla",
            "q_lora_rank": None if rank is None else flags.whole("--q-lora-rank"),
            "kv_lora_rank": flags.whole("--kv-lora-rank", 512),
            "qk_nope_head_dim": flags.whole("--qk-head-dim", 128),
            "qk_rope_head_dim": flags.whole("--qk-pos-emb-head-dim", 64),
            "v_head_dim": flags.whole("--v-head-dim", 128),
        }
    groups = flags.whole("--num-query-groups", 1) if flags.get("--group-query-attention") else heads
    return {
        "num_key_value_heads": groups,
        "head_dim": flags.whole("--kv-channels", 0),
        "qk_norm": "per_head" if flags.get("--qk-layernorm") else "none",
        "attention_bias": bool(flags.get("--add-qkv-bias")),
        "attention_sinks": flags.get("--softmax-type") == "learnable",
    }


def _experts(flags: Values, layers: int) -> dict[str, Any]:
    pattern = parse_layer_pattern(flags.get("--moe-layer-freq", 1), layers, flags.path)
    dense = [layer for layer, kind in enumerate(pattern) if not kind]
    leading = next((index for index, layer in enumerate(dense) if layer != index), len(dense))
    width = flags.whole("--moe-ffn-hidden-size", _ffn_size(flags))
    shared = flags.whole("--moe-shared-expert-intermediate-size", 0)
    count = shared // width if shared and width and shared % width == 0 else int(shared > 0)
    score, top = flags.get("--moe-router-score-function", "softmax"), flags.whole("--moe-router-topk", 2)
    return {
        "num_experts": flags.whole("--num-experts"),
        "experts_per_token": top,
        "expert_ffn_size": width,
        "num_shared_experts": count,
        "shared_expert_ffn_size": shared // count if count else 0,
        "shared_expert_gate": bool(flags.get("--moe-shared-expert-gate")),
        "num_dense_layers": leading,
        "other_dense_layers": tuple(dense[leading:]),
        "router_score_function": score,
        "router_normalize": top > 1 if score == "sigmoid" else not flags.get("--moe-router-pre-softmax"),
        "router_selection_bias": bool(flags.get("--moe-router-enable-expert-bias")),
        "router_scaling_factor": flags.number("--moe-router-topk-scaling-factor", 1.0),
        "num_expert_groups": flags.whole("--moe-router-num-groups", 1),
        "expert_groups_per_token": flags.whole("--moe-router-group-topk", 1),
    }


def _layout(
    flags: Values, environment: Mapping[str, Any], model: Architecture
) -> tuple[Layout | None, tuple[int, ...]]:
    """The layout, and the layers of each pipeline chunk; nothing when the file does not say for how many GPUs."""
    stages = flags.whole("--pipeline-model-parallel-size", 1, least=1)
    chunks = _chunks(flags, stages, model.num_layers)
    if environment.get("GPUS") is None:
        return None, ()
    layout = Layout(
        gpus=Values(environment, flags.path, "variable").whole("GPUS", least=1),
        tensor=flags.whole("--tensor-model-parallel-size", 1, least=1),
        pipeline=stages,
        virtual_pipeline=len(chunks) // stages,
        expert=flags.whole("--expert-model-parallel-size", 1, least=1),
        expert_tensor=flags.whole("--expert-tensor-parallel-size", 1, least=1),
        context=flags.whole("--context-parallel-size", 1, least=1),
        micro_batch_size=flags.whole("--micro-batch-size", least=1),
        recompute=_recompute(flags),
    )
    return layout, chunks


def _chunks(flags: Values, stages: int, layers: int) -> tuple[int, ...]:
    text = flags.get("--pipeline-model-parallel-layout")
    if text is not None:
        return parse_pipeline_layout(str(text), stages, layers, flags.path)
    if layers % stages:
        raise UserError(
            f"{flags.path}: flag '--num-layers' is {layers}, not divisible by --pipeline-model-parallel-size "
            f"{stages}; add --pipeline-model-parallel-layout."
        )
    held = layers // stages
    size = flags.whole("--num-layers-per-virtual-pipeline-stage", held, least=1)
    chunks = flags.whole("--num-virtual-stages-per-pipeline-rank", held // size, least=1)
    if held % chunks:
        raise UserError(
            f"{flags.path}: the {held} layers of a stage do not divide into {chunks} virtual stages; "
            "change --num-virtual-stages-per-pipeline-rank or write --pipeline-model-parallel-layout."
        )
    return (held // chunks,) * (stages * chunks)


def _recompute(flags: Values) -> Literal["none", "selective", "full"]:
    kind = flags.get("--recompute-granularity", "none")
    if kind not in ("none", "selective", "full"):
        raise UserError(f"{flags.path}: flag '--recompute-granularity' is {kind!r}: must be selective or full.")
    return kind


def _ramp(flags: Values) -> Ramp | None:
    """``--rampup-batch-size START INCREMENT SAMPLES``, as text or as a list."""
    value = flags.get("--rampup-batch-size")
    if value is None:
        return None
    parts = value if isinstance(value, list) else str(value).strip("[]").replace(",", " ").split()
    try:
        start, increment, samples = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise UserError(
            f"{flags.path}: flag '--rampup-batch-size' is {value!r}: must be three whole numbers: first batch, "
            "increment, samples."
        ) from None
    return Ramp(start=start, increment=increment, samples=samples)


FLAG_OF = {
    "model.num_attention_heads": "--num-attention-heads",
    "model.num_key_value_heads": "--num-query-groups",
    "model.vocab_size": "the padded vocabulary",
    "model.dense_ffn_size": "--ffn-hidden-size",
    "model.shared_expert_ffn_size x num_shared_experts": "--moe-shared-expert-intermediate-size",
    "model.num_experts": "--num-experts",
    "model.expert_ffn_size": "--moe-ffn-hidden-size",
    "model.num_layers": "--num-layers",
    "model.num_expert_groups": "--moe-router-num-groups",
    "layout.tensor": "--tensor-model-parallel-size",
    "layout.pipeline": "--pipeline-model-parallel-size",
    "layout.expert_tensor": "--expert-tensor-parallel-size",
    "layout.expert": "--expert-model-parallel-size",
    "layout.context": "--context-parallel-size",
    "layout.micro_batch_size": "--micro-batch-size",
    "layout.gpus": "GPUS",
    "sequence_length": "--seq-length",
    "the batch of sequences": "--global-batch-size",
}


def in_flags(fault: str) -> str:
    """A fault of the run in the words of this file."""
    pattern = "|".join(re.escape(name) for name in sorted(FLAG_OF, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({pattern})(?!\w)", lambda match: FLAG_OF[match[1]], fault)


def _in_flags(message: str) -> str:
    names = {name.removeprefix("model."): flag for name, flag in FLAG_OF.items() if name.startswith("model.")}
    names |= {"experts_per_token": "--moe-router-topk", "hidden_size": "--hidden-size", "num_experts": "--num-experts"}
    names |= {"expert_groups_per_token": "--moe-router-group-topk"}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    source, separator, rest = message.partition(": ")
    return source + separator + re.sub(rf"\b({pattern})\b", lambda match: names[match[1]], rest)
