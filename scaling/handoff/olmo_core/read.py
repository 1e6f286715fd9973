"""OLMo-core dictionaries -> the run, read as text: nothing of the stack is imported."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_mapping, read_text
from scaling.cluster.run import Run
from scaling.handoff.values import Values
from scaling.plan import Layout
from trainer_small.architecture import Architecture

_ATTENTION = {
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
}


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
    model, length = _model(file), file.whole("train_module.max_sequence_length", least=1)
    batch_tokens = file.whole("data_loader.global_batch_size", least=1)
    if batch_tokens % length:
        raise UserError(
            f"{path}: field 'data_loader.global_batch_size' is {batch_tokens} tokens, no whole number of sequences of "
            f"{length}; round it."
        )
    if file.get("trainer.max_duration.unit") != "steps":
        raise UserError(f"{path}: field 'trainer.max_duration.unit' must be steps.")
    steps, rate = file.whole("trainer.max_duration.value", least=1), file.number("train_module.optim.lr")
    warmup = file.whole("train_module.scheduler.warmup")
    is_wsd = _class(file.get("train_module.scheduler._CLASS_")) == "WSD"
    decay = file.whole("train_module.scheduler.decay", least=1) if is_wsd else max(steps - warmup, 1)
    layout, stage_layers = _layout(file, model, gpus, length) if gpus is not None else (None, ())
    betas = file.get("train_module.optim.betas")
    if not (isinstance(betas, list) and len(betas) == 2):
        raise UserError(f"{path}: field 'train_module.optim.betas' is {betas!r}: must be two numbers, [0.9, 0.95].")
    lowest = (
        file.number("train_module.scheduler.decay_min_lr", 0.0)
        if is_wsd
        else rate * file.number("train_module.scheduler.alpha_f", 0.1)
    )
    return Run(
        model=model,
        sequence_length=length,
        batch_size=batch_tokens // length,
        steps=steps,
        warmup_steps=warmup,
        decay_steps=decay,
        schedule="wsd" if is_wsd else "cosine",
        decay_shape="linear" if is_wsd else "sqrt",
        learning_rate=rate,
        min_learning_rate=lowest,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=file.number("train_module.optim.eps", 1e-8),
        weight_decay=file.number("train_module.optim.weight_decay", 1e-2),
        grad_clip=file.number("train_module.max_grad_norm"),
        init_std=file.number("model.init_std", 0.02),
        precision="fp32" if file.get("train_module.dp_config.param_dtype") == "float32" else "bf16",
        layout=layout,
        stage_layers=stage_layers,
    )


def _model(file: Values) -> Architecture:
    layers = file.whole("model.n_layers", least=1)
    mixer = "model.block.sequence_mixer."
    plain = file.get("model.name", "default") != "moe"
    values: dict[str, Any] = {
        "hidden_size": file.whole("model.d_model"),
        "vocab_size": file.whole("model.vocab_size"),
        "num_layers": layers,
        "tied_embeddings": bool(file.get("model.tie_word_embeddings")),
        "attention_bias": bool(file.get(mixer + "bias")),
        "attention_output_bias": bool(file.get(mixer + "bias")),
        "attention_sinks": bool(file.get(mixer + "attention_sinks")),
        "qk_norm": _qk_norm(file),
        "rope_theta": file.number(mixer + "rope.theta", 500_000),
        "norm_eps": file.number("model.block.layer_norm.eps", 1e-5),
    }
    values |= {key: file.whole(mixer + name) for key, name in _ATTENTION.items()}
    if plain:
        values |= _dense(file, "model.block.feed_forward.")
    else:
        values |= _experts(file, layers)
    return Architecture.parse(values, file.path)


def _qk_norm(file: Values) -> str:
    if file.get("model.block.sequence_mixer.qk_norm._CLASS_") is None:
        return "none"
    return "per_head" if file.get("model.block.sequence_mixer.use_head_qk_norm") else "full_width"


def _dense(file: Values, place: str) -> dict[str, Any]:
    return {"dense_ffn_size": file.whole(place + "hidden_size"), "dense_ffn_bias": bool(file.get(place + "bias"))}


def _experts(file: Values, layers: int) -> dict[str, Any]:
    place = "model.block.feed_forward_moe."
    score = file.get(place + "router.gating_function", "softmax")
    width, shared = file.whole(place + "hidden_size"), file.whole(place + "shared_mlp.hidden_size", 0)
    count = shared // width if shared and width and shared % width == 0 else int(shared > 0)
    values: dict[str, Any] = {
        "num_experts": file.whole(place + "num_experts"),
        "experts_per_token": file.whole(place + "router.top_k", 1),
        "expert_ffn_size": width,
        "num_shared_experts": count,
        "shared_expert_ffn_size": shared // count if count else 0,
        "dense_ffn_bias": bool(file.get(place + "shared_mlp.bias")),
        "router_score_function": score,
        "router_normalize": file.get(place + "router.normalize_expert_weights") is not None,
        "router_selection_bias": file.get(place + "router.bias_gamma") is not None,
    }
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
        values |= _dense(file, f"model.block_overrides.{dense[0]}.feed_forward.")
    leading = next((index for index, layer in enumerate(dense) if layer != index), len(dense))
    return values | {"num_dense_layers": leading, "other_dense_layers": tuple(dense[leading:])}


def _below(file: Values, place: str) -> dict[str, Any]:
    return {name.removeprefix(place): value for name, value in file.values.items() if name.startswith(place)}


def _layout(file: Values, model: Architecture, gpus: int, length: int) -> tuple[Layout, tuple[int, ...]]:
    place = "train_module."
    pipeline = file.whole(place + "pp_config.degree", 1, least=1)
    ends = file.get(place + "pp_config.split_points", [])
    good = isinstance(ends, list) and all(type(end) is int for end in ends)
    edges = [0, *ends, model.num_layers] if good else []
    chunks = tuple(last - first for first, last in pairwise(edges))
    if not good or any(layers < 1 for layers in chunks) or len(chunks) % pipeline:
        raise UserError(
            f"{file.path}: field 'train_module.pp_config.split_points' is {ends!r}: must be rising layers below "
            f"n_layers {model.num_layers} that make a multiple of {pipeline} chunks."
        )
    micro = file.whole(place + "rank_microbatch_size", least=1)
    if micro % length:
        raise UserError(
            f"{file.path}: field 'train_module.rank_microbatch_size' is {micro} tokens, no whole number of sequences "
            f"of {length}; round it."
        )
    layout = Layout(
        gpus=gpus,
        tensor=file.whole(place + "tp_config.degree", 1, least=1),
        pipeline=pipeline,
        virtual_pipeline=len(chunks) // pipeline,
        expert=file.whole(place + "ep_config.degree", 1, least=1),
        context=file.whole(place + "cp_config.degree", 1, least=1),
        micro_batch_size=micro // length,
        recompute="full" if file.get(place + "ac_config.mode") == "full" else "none",
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
