"""OLMo-core dictionaries -> the run, read as text: nothing of the stack is imported."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_mapping, read_text
from scaling.cluster.run import Run
from scaling.handoff.fields import Values, dense_layers, read_back, shared_experts
from scaling.handoff.olmo_core.fields import BLOCK, DEGREES, DENSE, EXPERTS, MODEL, NORM, TRAINING, WSD
from scaling.plan import Layout
from trainer_small.architecture import Architecture


def read_olmo_core(path: str | Path, *, gpus: int | None = None) -> Run:
    """Read a file of ``model`` and ``train_module`` back into the run it describes.

    Args:
        path: the YAML.
        gpus: of the job, which OLMo-core takes from its launcher; without it there is no layout.

    Raises:
        UserError: a field that OLMo-core does not have, or one that is missing or impossible.
    """
    content = read_mapping(path)
    for fault in _unknown_fields(content, ""):
        raise UserError(f"{path}: {fault}; rename or remove it.")
    file = Values(_flat(content), path, "field")
    if file.get("trainer.max_duration.unit") != "steps":
        raise UserError(f"{path}: field 'trainer.max_duration.unit' must be steps.")
    run = read_back((*MODEL, *TRAINING), file)
    length, model = run["sequence_length"], _model(file)
    batch_tokens = file.count("data_loader.global_batch_size")
    if batch_tokens % length:
        raise UserError(
            f"{path}: field 'data_loader.global_batch_size' is {batch_tokens} tokens, no whole number of sequences of "
            f"{length}; round it."
        )
    if _class(file.get("train_module.scheduler._CLASS_")) == "WSD":
        run |= {"schedule": "wsd", "decay_shape": "linear", **read_back(WSD, file)}
    else:
        run |= {"schedule": "cosine", "decay_steps": max(run["steps"] - run["warmup_steps"], 1)}
        run["min_learning_rate"] = run["learning_rate"] * file.number("train_module.scheduler.alpha_f", 0.1)
    layout, stage_layers = _layout(file, model, gpus, length) if gpus is not None else (None, ())
    betas = file.get("train_module.optim.betas")
    if not (isinstance(betas, list) and len(betas) == 2):
        raise UserError(f"{path}: field 'train_module.optim.betas' is {betas!r}: must be two numbers, [0.9, 0.95].")
    return Run(
        model=model,
        batch_size=batch_tokens // length,
        beta1=betas[0],
        beta2=betas[1],
        precision="fp32" if file.get("train_module.dp_config.param_dtype") == "float32" else "bf16",
        layout=layout,
        stage_layers=stage_layers,
        **run,
    )


def _model(file: Values) -> Architecture:
    values = read_back(MODEL, file, "model")
    values |= read_back(BLOCK, file, "model", place="model.block.")
    values |= read_back(NORM, file, "model", place="model.block.layer_norm.")
    values["attention_output_bias"] = values["attention_bias"]
    if file.get("model.name", "default") == "moe":
        values |= _experts(file, values["num_layers"])
    else:
        values |= read_back(DENSE, file, "model", place="model.block.")
    return Architecture.parse(values, file.path)


def _experts(file: Values, layers: int) -> dict[str, Any]:
    values = read_back(EXPERTS, file, "model", place="model.block.")
    shared = "model.block.feed_forward_moe.shared_mlp."
    values |= shared_experts(file.whole(shared + "hidden_size", 0), values["expert_ffn_size"])
    values["dense_ffn_bias"] = file.yes(shared + "bias")
    dense = sorted({int(name.split(".")[2]) for name in file.values if name.startswith("model.block_overrides.")})
    for layer in dense:
        if layer >= layers:
            raise UserError(f"{file.path}: field 'model.block_overrides.{layer}' is no layer of {layers}; remove it.")
        first, mine = f"model.block_overrides.{dense[0]}.", f"model.block_overrides.{layer}."
        if _below(file, mine) != _below(file, first) or _below(file, mine + "sequence_mixer.") != _below(
            file, "model.block.sequence_mixer."
        ):
            raise UserError(
                f"{file.path}: field 'model.block_overrides.{layer}' differs from the other blocks in more than its "
                "feed-forward; no plan has that."
            )
    if dense:
        values |= read_back(DENSE, file, "model", place=f"model.block_overrides.{dense[0]}.")
    return values | dense_layers(dense)


def _below(file: Values, place: str) -> dict[str, Any]:
    return {name.removeprefix(place): value for name, value in file.values.items() if name.startswith(place)}


def _layout(file: Values, model: Architecture, gpus: int, length: int) -> tuple[Layout, tuple[int, ...]]:
    degrees = read_back(DEGREES, file, "layout")
    pipeline = degrees["pipeline"]
    ends = file.get("train_module.pp_config.split_points", [])
    good = isinstance(ends, list) and all(type(end) is int for end in ends)
    edges = [0, *ends, model.num_layers] if good else []
    chunks = tuple(last - first for first, last in pairwise(edges))
    if not good or any(layers < 1 for layers in chunks) or len(chunks) % pipeline:
        raise UserError(
            f"{file.path}: field 'train_module.pp_config.split_points' is {ends!r}: must be rising layers below "
            f"n_layers {model.num_layers} that make a multiple of {pipeline} chunks."
        )
    micro = file.count("train_module.rank_microbatch_size")
    if micro % length:
        raise UserError(
            f"{file.path}: field 'train_module.rank_microbatch_size' is {micro} tokens, no whole number of sequences "
            f"of {length}; round it."
        )
    layout = Layout(
        gpus=gpus,
        virtual_pipeline=len(chunks) // pipeline,
        micro_batch_size=micro // length,
        recompute="full" if file.get("train_module.ac_config.mode") == "full" else "none",
        **degrees,
    )
    return layout, chunks


@cache
def known_fields() -> dict[str, frozenset[str]]:
    """Class -> its fields."""
    found: dict[str, set[str]] = {}
    for line in read_text(Path(__file__).with_name("fields.txt")).splitlines():
        if line and not line.startswith("#"):
            kind, _, field = line.partition(".")
            found.setdefault(kind, set()).add(field)
    return {kind: frozenset(fields) for kind, fields in found.items()}


def _class(name: Any) -> str:
    return str(name).rpartition(".")[2]


def _unknown_fields(value: Any, place: str) -> Iterator[str]:
    """A sentence for each field that the class it stands in does not have."""
    if not isinstance(value, dict):
        return
    kind = _class(value.get("_CLASS_"))
    fields = known_fields().get(kind)
    for name, inner in value.items():
        where = f"{place}.{name}" if place else str(name)
        if fields is not None and name != "_CLASS_" and name not in fields:
            yield f"OLMo-core's {kind} has no field '{where}'{nearest(str(name), fields)}"
        yield from _unknown_fields(inner, where)


def _flat(value: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Nested keys with dots between."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        where = f"{place}{name}"
        if isinstance(inner, dict):
            flat |= _flat(inner, where + ".")
        else:
            flat[where] = inner
    return flat
