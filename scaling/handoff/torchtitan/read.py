"""A torchtitan package's constants -> the run, read as text: nothing of the package is executed."""

import ast
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_text
from scaling.cluster.run import Run
from scaling.handoff.fields import Values
from scaling.plan import Layout
from trainer_small.architecture import Architecture

KNOWN = frozenset([
    "VOCAB_SIZE", "HIDDEN_SIZE", "NUM_LAYERS", "NUM_HEADS", "TIED_EMBEDDINGS", "NORM_EPS", "ROPE_THETA", "INIT_STD",
    "DENSE_FFN_SIZE", "KV_LORA_RANK", "QK_NOPE_HEAD_DIM", "QK_ROPE_HEAD_DIM", "V_HEAD_DIM", "Q_LORA_RANK",
    "NUM_KEY_VALUE_HEADS", "HEAD_DIM", "QK_NORM", "DENSE_LAYERS", "NUM_EXPERTS", "EXPERTS_PER_TOKEN",
    "EXPERT_FFN_SIZE", "NUM_SHARED_EXPERTS", "SHARED_EXPERT_FFN_SIZE", "ROUTER_SCORE", "ROUTER_NORMALIZE",
    "ROUTER_SCALE", "EXPERT_GROUPS", "EXPERT_GROUPS_PER_TOKEN", "SELECTION_BIAS_RATE", "DATASET", "TOKENIZER",
    "SEQUENCE_LENGTH", "BATCH_SIZE", "MICRO_BATCH_SIZE", "LOCAL_BATCH_SIZE", "STEPS", "WARMUP_STEPS", "DECAY_STEPS",
    "DECAY_TYPE", "LEARNING_RATE", "FINAL_LEARNING_RATE_FRACTION", "BETAS", "EPSILON", "WEIGHT_DECAY", "GRAD_CLIP",
    "PARAMETER_DTYPE", "TENSOR", "PIPELINE", "STAGE_LAYERS", "CONTEXT", "EXPERT", "RECOMPUTE",
    "DISABLE_CUDA_GRAPHS", "EMBEDDING_LEARNING_RATE", "WEIGHT", "LINEAR",
])  # fmt: skip
"""Every constant of an exported module."""


def read_torchtitan(path: str | Path, *, gpus: int | None = None) -> Run:
    """Read a ``config_registry.py`` that this toolkit wrote back into the run it describes.

    Args:
        path: the module.
        gpus: of the job, which torchtitan takes from its launcher; without it there is no layout.

    Raises:
        UserError: the file is no Python, lacks a constant, or holds impossible values.
    """
    constants = Values(_constants(path), path, "constant")
    for name in constants.values:
        if name.isupper() and name not in KNOWN:
            raise UserError(f"{path}: no constant '{name}'{nearest(name, KNOWN)} is used; rename or remove it.")
    model = Architecture.parse(_architecture(constants), path)
    layout, stage_layers = _layout(constants, model, gpus) if gpus is not None else (None, ())
    rate, betas = constants.number("LEARNING_RATE"), constants.get("BETAS")
    if not (isinstance(betas, tuple) and len(betas) == 2):
        raise UserError(f"{path}: constant 'BETAS' is {betas!r}: must be two numbers, (0.9, 0.95).")
    decay = constants.get("DECAY_TYPE")
    if decay not in ("sqrt", "linear", "cosine"):
        raise UserError(f"{path}: constant 'DECAY_TYPE' is {decay!r}: must be sqrt, linear or cosine.")
    return Run(
        model=model,
        sequence_length=constants.whole("SEQUENCE_LENGTH", least=1),
        batch_size=constants.whole("BATCH_SIZE", least=1),
        steps=constants.whole("STEPS", least=1),
        warmup_steps=constants.whole("WARMUP_STEPS"),
        decay_steps=constants.whole("DECAY_STEPS"),
        schedule="cosine" if decay == "cosine" else "wsd",
        decay_shape="linear" if decay == "linear" else "sqrt",
        learning_rate=rate,
        embedding_learning_rate=constants.number("EMBEDDING_LEARNING_RATE")
        if "EMBEDDING_LEARNING_RATE" in constants.values
        else None,
        min_learning_rate=rate * constants.number("FINAL_LEARNING_RATE_FRACTION"),
        beta1=betas[0],
        beta2=betas[1],
        epsilon=constants.number("EPSILON"),
        weight_decay=constants.number("WEIGHT_DECAY"),
        grad_clip=constants.number("GRAD_CLIP"),
        init_std=constants.number("INIT_STD"),
        precision="fp32" if constants.get("PARAMETER_DTYPE") == "float32" else "bf16",
        layout=layout,
        stage_layers=stage_layers,
    )


def _layout(constants: Values, model: Architecture, gpus: int) -> tuple[Layout, tuple[int, ...]]:
    pipeline, recompute = constants.whole("PIPELINE", least=1), constants.get("RECOMPUTE", "none")
    if recompute not in ("none", "selective", "full"):
        raise UserError(f"{constants.path}: constant 'RECOMPUTE' is {recompute!r}: must be none, selective or full.")
    if pipeline > 1 and not constants.get("DISABLE_CUDA_GRAPHS"):
        raise UserError(
            f"{constants.path}: constant 'DISABLE_CUDA_GRAPHS' is not True with PIPELINE {pipeline}, and torchtitan "
            "captures no pipeline; set it to True."
        )
    chunks = constants.get("STAGE_LAYERS")
    if not isinstance(chunks, list) or any(type(layers) is not int or layers < 1 for layers in chunks):
        raise UserError(f"{constants.path}: constant 'STAGE_LAYERS' is {chunks!r}: must be a list of whole numbers.")
    if sum(chunks) != model.num_layers or len(chunks) % pipeline:
        raise UserError(
            f"{constants.path}: constant 'STAGE_LAYERS' holds {sum(chunks)} layers in {len(chunks)} chunks, but there "
            f"are NUM_LAYERS {model.num_layers} and PIPELINE {pipeline}; correct one."
        )
    layout = Layout(
        gpus=gpus,
        tensor=constants.whole("TENSOR", least=1),
        pipeline=pipeline,
        virtual_pipeline=len(chunks) // pipeline,
        expert=constants.whole("EXPERT", least=1),
        context=constants.whole("CONTEXT", least=1),
        micro_batch_size=constants.whole("MICRO_BATCH_SIZE", least=1),
        recompute=recompute,
    )
    return layout, tuple(chunks)


def _constants(path: str | Path) -> dict[str, Any]:
    try:
        module = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:  # a null byte is a ValueError
        line = getattr(error, "lineno", None) or 1
        raise UserError(f"{path} line {line}: not Python ({getattr(error, 'msg', error)}); mend the line.") from None
    values: dict[str, Any] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:  # WEIGHT and LINEAR, which are no plain values
                continue
    return values


def _architecture(constants: Values) -> dict[str, Any]:
    found = {
        "vocab_size": constants.whole("VOCAB_SIZE"),
        "hidden_size": constants.whole("HIDDEN_SIZE"),
        "num_layers": constants.whole("NUM_LAYERS"),
        "num_attention_heads": constants.whole("NUM_HEADS"),
        "tied_embeddings": bool(constants.get("TIED_EMBEDDINGS")),
        "norm_eps": constants.number("NORM_EPS"),
        "rope_theta": constants.number("ROPE_THETA"),
        "dense_ffn_size": constants.whole("DENSE_FFN_SIZE"),
    }
    if "KV_LORA_RANK" in constants.values:
        keys = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        found |= {key: constants.whole(key.upper()) for key in keys}
        found |= {"attention": "mla", "q_lora_rank": constants.whole("Q_LORA_RANK") or None}
    else:
        found |= {"num_key_value_heads": constants.whole("NUM_KEY_VALUE_HEADS")}
        found |= {"head_dim": constants.whole("HEAD_DIM"), "qk_norm": constants.get("QK_NORM")}
    return found | (_experts(constants) if "NUM_EXPERTS" in constants.values else {})


def _experts(constants: Values) -> dict[str, Any]:
    dense = constants.get("DENSE_LAYERS", [])
    if not isinstance(dense, list):
        raise UserError(f"{constants.path}: constant 'DENSE_LAYERS' is {dense!r}: must be a list of layers.")
    leading = next((index for index, layer in enumerate(dense) if layer != index), len(dense))
    return {
        "num_experts": constants.whole("NUM_EXPERTS"),
        "experts_per_token": constants.whole("EXPERTS_PER_TOKEN"),
        "expert_ffn_size": constants.whole("EXPERT_FFN_SIZE"),
        "num_shared_experts": constants.whole("NUM_SHARED_EXPERTS"),
        "shared_expert_ffn_size": constants.whole("SHARED_EXPERT_FFN_SIZE"),
        "num_dense_layers": leading,
        "other_dense_layers": dense[leading:],
        "router_score_function": constants.get("ROUTER_SCORE"),
        "router_normalize": bool(constants.get("ROUTER_NORMALIZE")),
        "router_scaling_factor": constants.number("ROUTER_SCALE"),
        "router_selection_bias": constants.get("SELECTION_BIAS_RATE") is not None,
        "num_expert_groups": constants.whole("EXPERT_GROUPS", 1),
        "expert_groups_per_token": constants.whole("EXPERT_GROUPS_PER_TOKEN", 1),
    }
