"""config.json -> Architecture: keys that the file leaves out take the class's own default."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_mapping
from scaling.hf.model_types import ModelType, model_types
from trainer_small.architecture import Architecture

# Sizes whose absence is worth a word: the class default silently makes another model.
_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "moe_intermediate_size", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
)  # fmt: skip


@dataclass(frozen=True)
class HFModel:
    """A config.json as understood: rope scaling, windows and initializers change no count and are not kept."""

    architecture: Architecture
    model_type: str
    warnings: tuple[str, ...] = ()
    misspelt: tuple[str, ...] = ()
    """The warnings that name a key close to one of the class: most likely a mistake."""


def read_hf_config(path: str | Path) -> HFModel:
    """Read a config.json, or the one in a directory.

    Raises:
        UserError: no such file, a model type not known, a key missing or impossible.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    return parse_hf_config(read_mapping(path), path)


def parse_hf_config(given: Mapping[str, Any], source: str | Path) -> HFModel:
    """Understand the content of a config.json; ``source`` names it in errors.

    Raises:
        UserError: a model type not known, a key missing or impossible.
    """
    kind = _model_type(given, source)
    config = _with_defaults(given, kind, source)
    values = {"attention": kind.attention, **kind.fixed}
    values |= {field: config[key] for field, key in kind.fields.items()}
    values["rope_theta"] = _rope_theta(config, kind)
    values |= _heads(given, config, kind, source)
    if kind.has_experts and values["num_experts"]:
        values |= _experts(config, kind, source)
    elif kind.has_experts:
        values |= {"experts_per_token": 0, "num_shared_experts": 0}
    if "num_nextn_predict_layers" in kind.defaults:  # one that the file leaves out has no weights either
        values["num_nextn_predict_layers"] = _multi_token_modules(given) or 0
    if "qk_norm" in kind.fields:
        values["qk_norm"] = "per_head" if values["qk_norm"] else "none"
    try:
        architecture = Architecture.parse(values, source)
    except UserError as error:
        raise UserError(_in_file_words(str(error), kind, source)) from None
    misspelt = tuple(_misspelt(given, kind))
    return HFModel(architecture, kind.name, (*misspelt, *_warnings(given, config, kind)), misspelt)


def _model_type(given: Mapping[str, Any], source: str | Path) -> ModelType:
    known = model_types()
    name = given.get("model_type")
    if name is None:
        raise UserError(f"{source}: key 'model_type' is missing; add it (known: {', '.join(known)}).")
    kind = known.get(str(name).lower())  # the A.X K1 release writes AXK1
    if kind is None:
        raise UserError(
            f"{source}: model_type is {name!r}{nearest(str(name), known)}; known are {', '.join(known)}; "
            "describe another model as an architecture in YAML."
        )
    return kind


def _with_defaults(given: Mapping[str, Any], kind: ModelType, source: str | Path) -> dict[str, Any]:
    """The file's keys under their first names, over the class's defaults."""
    config = {**kind.defaults, **{key: value for key, value in given.items() if key not in kind.aliases}}
    for alias, key in kind.aliases.items():
        if alias in given:
            if key in given and given[key] != given[alias]:
                raise UserError(
                    f"{source}: {key} is {given[key]!r} but {alias}, another name of it, is {given[alias]!r}; keep one."
                )
            config[key] = given[alias]
    for key, form in _FORMS.items():
        if config.get(key) is not None and not isinstance(config[key], form):
            raise UserError(f"{source}: key '{key}' is {config[key]!r}: must be a {form.__name__}.")
    for key in kind.fields.values():
        if config[key] is None and kind.defaults[key] is not None and key not in _MAY_BE_NULL:
            raise UserError(f"{source}: key '{key}' is null; give a value or remove it for the default.")
        if config[key] is None and key == "num_experts_per_tok":
            raise UserError(f"{source}: key '{key}' is missing and its class has no default; add it.")
    return config


_FORMS = {
    "rope_parameters": dict,
    "rope_scaling": dict,
    "mlp_only_layers": list,
    "mlp_layer_types": list,
    "layer_types": list,
}
_MAY_BE_NULL = ("num_key_value_heads", "q_lora_rank", "n_group", "topk_group", "n_shared_experts", "norm_topk_prob")


def _heads(given: Mapping[str, Any], config: dict[str, Any], kind: ModelType, source: str | Path) -> dict[str, Any]:
    heads, width = _whole(config, "num_attention_heads", source), _whole(config, "hidden_size", source)
    if kind.attention == "mla" or config.get("head_dim") is not None:
        must_divide, mend = kind.heads_divide_hidden_size, "choose a divisor"
    else:  # the class would round down, which only its own default sizes (glm4_moe) can mean
        must_divide = bool({"num_attention_heads", "hidden_size"} & set(given))
        mend = "choose a divisor" + ("" if kind.heads_divide_hidden_size else " or give head_dim")
    if must_divide and heads > 0 and width % heads:
        raise UserError(f"{source}: num_attention_heads {heads} does not divide hidden_size {width}; {mend}.")
    if kind.attention == "mla":  # every head has its own key and value, whatever the file says
        return {"num_key_value_heads": heads}
    head_dim = config.get("head_dim") or (width // heads if heads > 0 else 0)
    return {"num_key_value_heads": config["num_key_value_heads"] or heads, "head_dim": head_dim}


def _experts(config: dict[str, Any], kind: ModelType, source: str | Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if "num_expert_groups" in kind.fields:
        groups, chosen = config["n_group"] or 1, config["topk_group"] or 1
        if config.get("topk_method") == "greedy" and kind.name == "deepseek_v2":
            groups = chosen = 1
        values |= {"num_expert_groups": groups, "expert_groups_per_token": chosen}
    if "router_normalize" in kind.fields:
        values["router_normalize"] = bool(config["norm_topk_prob"])
    if "num_shared_experts" in kind.fields:
        values["num_shared_experts"] = config["n_shared_experts"] or 0
    if "shared_expert_intermediate_size" in config and kind.name == "qwen2_moe":
        values |= _shared_from_width(config, source)
    layers = _whole(config, "num_hidden_layers", source)
    dense = _dense_layers(config, kind, layers, source)
    leading = next((index for index, layer in enumerate(dense) if layer != index), len(dense))
    return values | {"num_dense_layers": leading, "other_dense_layers": tuple(dense[leading:])}


def _shared_from_width(config: dict[str, Any], source: str | Path) -> dict[str, int]:
    """Qwen2-MoE stores one width; its authors count it in experts (5632 = 4 x 1408)."""
    width = _whole(config, "shared_expert_intermediate_size", source)
    expert = _whole(config, "moe_intermediate_size", source)
    count = width // expert if expert and width % expert == 0 else int(width > 0)
    return {"num_shared_experts": count, "shared_expert_ffn_size": width // count if count else 0}


def _dense_layers(config: dict[str, Any], kind: ModelType, layers: int, source: str | Path) -> list[int]:
    """Indices of the layers without experts, ascending."""
    if kind.dense_layers == "first_k_dense_replace":
        return list(range(min(_whole(config, "first_k_dense_replace", source), layers)))
    if kind.dense_layers == "mlp_only_layers":
        step = _whole(config, "decoder_sparse_step", source)
        if step < 1:
            raise UserError(f"{source}: key 'decoder_sparse_step' is {step}; it must be at least 1.")
        only = config["mlp_only_layers"] or []
        return [layer for layer in range(layers) if layer in only or (layer + 1) % step]
    if kind.dense_layers == "mlp_layer_types":
        types = config["mlp_layer_types"]
        if types is None:
            first, step = _whole(config, "first_k_dense_replace", source), _whole(config, "moe_layer_freq", source)
            return [layer for layer in range(layers) if layer < first or layer % max(step, 1)]
        if len(types) != layers:
            raise UserError(
                f"{source}: mlp_layer_types names {len(types)} layers but num_hidden_layers is {layers}; correct one."
            )
        return [layer for layer, name in enumerate(types) if name != "sparse"]
    return []


def _whole(config: dict[str, Any], key: str, source: str | Path) -> int:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{source}: key '{key}' is {value!r}: must be a whole number.")
    return value


def _rope_theta(config: dict[str, Any], kind: ModelType) -> Any:
    """At the top level (transformers 4), in rope_parameters (5), there perhaps one set a layer type."""
    holders = [config, config.get("rope_parameters"), config.get("rope_scaling")]
    holders += list((config.get("rope_parameters") or {}).values())
    bases = [holder["rope_theta"] for holder in holders if isinstance(holder, dict) and holder.get("rope_theta")]
    return bases[0] if bases else kind.rope_theta


def _in_file_words(message: str, kind: ModelType, source: str | Path) -> str:
    """Put the file's keys where an error of the architecture names its own fields."""
    names = kind.fields
    pattern = r"\b(" + "|".join(sorted(names, key=len, reverse=True)) + r")\b"
    rest = message.removeprefix(str(source))
    return str(source) + re.sub(pattern, lambda match: names[match[1]], rest)


def _misspelt(given: Mapping[str, Any], kind: ModelType) -> Iterator[str]:
    absent = [key for key in kind.defaults if key not in given]
    for key in given:
        close = get_close_matches(key, absent, n=1, cutoff=0.85) if key not in kind.known_keys else []
        if close:
            yield f"key '{key}' is not one of {kind.name}; did you mean '{close[0]}'?"


def _warnings(given: Mapping[str, Any], config: dict[str, Any], kind: ModelType) -> Iterator[str]:
    renamed = {key for alias, key in kind.aliases.items() if alias in given}
    left_out = [key for key in _SIZES if key in kind.fields.values() and key not in given and key not in renamed]
    if left_out:
        yield "not in the file, the class default is counted: " + _listed(config, left_out)
    for key, behaviour in kind.unread.items():
        if given.get(key, behaviour) not in (behaviour, None):
            yield f"{key} {given[key]!r} is not read by the transformers class, which has {behaviour!r}"
    if modules := _multi_token_modules(given):
        yield f"the {modules} multi-token-prediction module(s) are not counted"
    if _has_windows(config):
        yield "sliding-window layers are counted with full attention"


def _multi_token_modules(given: Mapping[str, Any]) -> Any:
    return given.get("num_nextn_predict_layers", given.get("num_mtp_layers"))


def _listed(config: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {config[key]}" for key in keys)


def _has_windows(config: dict[str, Any]) -> bool:
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return False
    return config.get("layer_types") is None or "sliding_attention" in config["layer_types"]
