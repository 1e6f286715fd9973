"""MODEL_ARGS -> the run: what a Megatron-LM file says, with that stack's own defaults for flags left out."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_mapping, read_text
from scaling.cluster.run import Run
from scaling.handoff.fields import Values, dense_layers, read_back, shared_experts
from scaling.handoff.megatron import fields
from scaling.handoff.megatron.patterns import parse_layer_pattern, parse_pipeline_layout
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
    run = read_back(fields.MODEL + fields.TRAINING, reader)
    batch = run["batch_size"]
    samples = _samples(reader, "--train", batch)
    until = _samples(reader, "--lr-decay", batch, samples)
    warmup = _samples(reader, "--lr-warmup", batch, int(reader.number("--lr-warmup-fraction", 0.0) * until))
    decay = _samples(reader, "--lr-wsd-decay", batch) if run["schedule"] == "wsd" else until - warmup
    return Run(
        model=model,
        steps=samples // batch,
        warmup_steps=warmup // batch,
        decay_steps=decay // batch,
        layout=layout,
        stage_layers=stage_layers,
        **run,
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
    values = read_back(fields.MODEL + fields.DATA, flags, "model")
    if flags.get("--multi-latent-attention"):
        values |= {"attention": "mla", **read_back(fields.LATENT, flags, "model")}
    else:
        values |= read_back(fields.GROUPED, flags, "model")
    if flags.get("--num-experts"):
        values |= _experts(flags, values["num_layers"])
    try:
        model = Architecture.parse(values, flags.path)
    except UserError as error:
        raise UserError(_in_flags(str(error))) from None
    no_dense = model.num_moe_layers == model.num_layers
    return model.model_copy(update={"dense_ffn_size": 0}) if no_dense else model


def _experts(flags: Values, layers: int) -> dict[str, Any]:
    values = read_back(fields.EXPERTS, flags, "model")
    pattern = parse_layer_pattern(flags.get("--moe-layer-freq", 1), layers, flags.path)
    values |= dense_layers([layer for layer, has_experts in enumerate(pattern) if not has_experts])
    width = flags.whole("--moe-shared-expert-intermediate-size", 0)
    return values | shared_experts(width, values["expert_ffn_size"])


def _layout(
    flags: Values, environment: Mapping[str, Any], model: Architecture
) -> tuple[Layout | None, tuple[int, ...]]:
    """The layout, and the layers of each pipeline chunk; nothing when the file does not say for how many GPUs."""
    stages = flags.count("--pipeline-model-parallel-size", 1)
    chunks = _chunks(flags, stages, model.num_layers)
    if environment.get("GPUS") is None:
        return None, ()
    gpus = Values(environment, flags.path, "variable").count("GPUS")
    degrees = read_back(fields.BATCH + fields.PARALLEL, flags, "layout")
    return Layout(gpus=gpus, virtual_pipeline=len(chunks) // stages, **degrees), chunks


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
    size = flags.count("--num-layers-per-virtual-pipeline-stage", held)
    chunks = flags.count("--num-virtual-stages-per-pipeline-rank", held // size)
    if held % chunks:
        raise UserError(
            f"{flags.path}: the {held} layers of a stage do not divide into {chunks} virtual stages; "
            "change --num-virtual-stages-per-pipeline-rank or write --pipeline-model-parallel-layout."
        )
    return (held // chunks,) * (stages * chunks)


_SIZES = (*fields.MODEL, *fields.HEADS, *fields.EXPERTS, *fields.BATCH, *fields.PARALLEL)
_FLAG_OF = {field.key: field.name for field in _SIZES if "." in field.key and field.read is not Values.get} | {
    "model.num_key_value_heads": "--num-query-groups",
    "model.vocab_size": "the padded vocabulary",
    "model.shared_expert_ffn_size x num_shared_experts": "--moe-shared-expert-intermediate-size",
    "layout.gpus": "GPUS",
    "sequence_length": "--seq-length",
    "the batch of sequences": "--global-batch-size",
}
"""Keys that a fault can name -> what the file calls them."""


def in_flags(fault: str) -> str:
    """A fault of the run in the words of this file."""
    pattern = "|".join(re.escape(name) for name in sorted(_FLAG_OF, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({pattern})(?!\w)", lambda match: _FLAG_OF[match[1]], fault)


def _in_flags(message: str) -> str:
    names = {name.removeprefix("model."): flag for name, flag in _FLAG_OF.items() if name.startswith("model.")}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    source, separator, rest = message.partition(": ")
    return source + separator + re.sub(rf"\b({pattern})\b", lambda match: names[match[1]], rest)
