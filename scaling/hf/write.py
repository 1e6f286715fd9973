"""Architecture -> config.json: the first class of transformers that is exactly this model, with every key written."""

from typing import Any

from fits.errors import UserError
from scaling.hf.model_types import ModelType, model_types
from scaling.hf.read import parse_hf_config
from trainer_small.architecture import Architecture


def hf_config(
    architecture: Architecture,
    *,
    max_position_embeddings: int = 4096,
    initializer_range: float = 0.02,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """The content of a config.json whose class computes this architecture.

    A class counts as exact when reading the written file gives the architecture back. A balancing bias that
    the class has and the architecture lacks is allowed: it stays zero.

    Args:
        architecture: the model.
        max_position_embeddings: training sequence length, in tokens.
        initializer_range: standard deviation of the initial weights.
        dtype: of the stored weights.

    Raises:
        UserError: no class can express the architecture; names the features in the way.
    """
    nearest: tuple[dict[str, Any], str] | None = None
    for kind in model_types().values():
        config = _written(architecture, kind)
        config |= {"max_position_embeddings": max_position_embeddings, "initializer_range": initializer_range}
        # Token ids are the tokenizer's; a class's defaults may even lie outside the vocabulary.
        config |= {"dtype": dtype, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        try:
            back = parse_hf_config(config, "config.json").architecture
        except UserError:
            continue
        differing = differences(architecture, back)
        if not differing:
            return config
        if nearest is None or len(differing) < len(nearest[0]):
            nearest = differing, kind.name
    if nearest is None:
        raise UserError("no Hugging Face class takes these sizes; check heads and hidden_size.")
    features = ", ".join(f"{field} {value!r}" for field, value in nearest[0].items())
    raise UserError(
        f"no Hugging Face class of transformers has {features} with the rest of this architecture "
        f"(nearest is {nearest[1]}); change it in the plan or export to another stack."
    )


def _written(architecture: Architecture, kind: ModelType) -> dict[str, Any]:
    """The architecture as this type would hold it, whether or not that is the same model."""
    config: dict[str, Any] = {"architectures": [kind.class_name], "model_type": kind.name}
    config |= {**kind.defaults, **kind.unread, **kind.neutral}
    for field, key in kind.fields.items():
        config[key] = getattr(architecture, field)
    if "use_qk_norm" in config:
        config["use_qk_norm"] = architecture.qk_norm == "per_head"
    if "num_nextn_predict_layers" in config:
        config["num_nextn_predict_layers"] = architecture.num_nextn_predict_layers
    if kind.attention == "mla":
        config["num_key_value_heads"] = architecture.num_attention_heads
    else:
        config["head_dim"] = architecture.head_dim
    rope = {"rope_type": "default", "rope_theta": architecture.rope_theta}
    if "partial_rotary_factor" in kind.neutral:
        rope["partial_rotary_factor"] = kind.neutral["partial_rotary_factor"]
    # transformers 5 reads rope_parameters, older releases and other stacks the top level.
    config |= {"rope_parameters": rope, "rope_theta": architecture.rope_theta}
    if "layer_types" in config:
        config["layer_types"] = ["full_attention"] * architecture.num_layers
    if "topk_method" in kind.defaults:
        config["topk_method"] = "group_limited_greedy" if architecture.num_expert_groups > 1 else "greedy"
    if "shared_expert_intermediate_size" in config:
        config["shared_expert_intermediate_size"] = (
            architecture.num_shared_experts * architecture.shared_expert_ffn_size
        )
    dense = [layer for layer in range(architecture.num_layers) if not architecture.is_moe_layer(layer)]
    if kind.dense_layers == "mlp_only_layers":
        config["mlp_only_layers"] = dense
    elif kind.dense_layers == "mlp_layer_types":
        config["mlp_layer_types"] = [
            "dense" if layer in dense else "sparse" for layer in range(architecture.num_layers)
        ]
        # The names that other readers of the file know; the class goes by the list.
        config["first_k_dense_replace"] = architecture.num_dense_layers
    return config


def differences(wanted: Architecture, written: Architecture) -> dict[str, Any]:
    """Fields in which two models differ, with the wanted value; fields that do nothing in it are left out.

    A balancing bias that only the written model has is no difference: it stays zero.
    """
    inert = _inert_fields(wanted)
    if not wanted.router_selection_bias and written.router_selection_bias:
        inert.add("router_selection_bias")
    pairs = zip(wanted, written, strict=True)
    return {field: value for (field, value), (_, other) in pairs if field not in inert and value != other}


def _inert_fields(architecture: Architecture) -> set[str]:
    """Fields that change nothing in a model of this kind."""
    fields = set(Architecture.model_fields)
    inert: set[str] = set()
    if architecture.attention == "mla":
        inert |= {"head_dim", "qk_norm"}
    else:
        inert |= {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}
    if not architecture.is_moe:
        inert |= {field for field in fields if "router" in field or "expert" in field}
        inert |= {"moe_output_norm", "num_dense_layers", "other_dense_layers"}
    elif architecture.num_moe_layers == architecture.num_layers:
        inert.add("dense_ffn_size")
        if not architecture.num_shared_experts:
            inert.add("dense_ffn_bias")
    if not architecture.num_shared_experts:
        inert |= {"shared_expert_ffn_size", "shared_expert_gate"}
    return inert
