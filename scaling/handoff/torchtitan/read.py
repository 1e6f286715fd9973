"""A torchtitan package's constants -> the run, read as text: nothing of the package is executed."""

import ast
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_text
from scaling.cluster.run import Run
from scaling.handoff.fields import Values, dense_layers, read_back
from scaling.handoff.torchtitan import fields
from scaling.plan import Layout
from trainer_small.architecture import Architecture

_TABLES = (fields.MODEL, fields.LATENT, fields.GROUPED, fields.EXPERTS, fields.TRAINING, fields.EMBEDDING)
_KNOWN = frozenset(["WEIGHT", "LINEAR", *(field.name for table in _TABLES for field in table)])
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
        if name.isupper() and name not in _KNOWN:
            raise UserError(f"{path}: no constant '{name}'{nearest(name, _KNOWN)} is used; rename or remove it.")
    model = Architecture.parse(_architecture(constants), path)
    layout, stage_layers = _layout(constants, model, gpus) if gpus is not None else (None, ())
    run = read_back(fields.MODEL + fields.TRAINING, constants)
    if "EMBEDDING_LEARNING_RATE" in constants.values:
        run |= read_back(fields.EMBEDDING, constants)
    betas = constants.get("BETAS")
    if not (isinstance(betas, tuple) and len(betas) == 2):
        raise UserError(f"{path}: constant 'BETAS' is {betas!r}: must be two numbers, (0.9, 0.95).")
    decay = constants.get("DECAY_TYPE")
    if decay not in ("sqrt", "linear", "cosine"):
        raise UserError(f"{path}: constant 'DECAY_TYPE' is {decay!r}: must be sqrt, linear or cosine.")
    return Run(
        model=model,
        schedule="cosine" if decay == "cosine" else "wsd",
        decay_shape="linear" if decay == "linear" else "sqrt",
        min_learning_rate=run["learning_rate"] * constants.number("FINAL_LEARNING_RATE_FRACTION"),
        beta1=betas[0],
        beta2=betas[1],
        precision="fp32" if constants.get("PARAMETER_DTYPE") == "float32" else "bf16",
        layout=layout,
        stage_layers=stage_layers,
        **run,
    )


def _layout(constants: Values, model: Architecture, gpus: int) -> tuple[Layout, tuple[int, ...]]:
    values = read_back(fields.TRAINING, constants, "layout")
    pipeline, recompute = values["pipeline"], values["recompute"]
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
    return Layout(gpus=gpus, virtual_pipeline=len(chunks) // pipeline, **values), tuple(chunks)


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
    values = read_back(fields.MODEL, constants, "model")
    if "KV_LORA_RANK" in constants.values:
        values |= {"attention": "mla", **read_back(fields.LATENT, constants, "model")}
    else:
        values |= read_back(fields.GROUPED, constants, "model")
    if "NUM_EXPERTS" not in constants.values:
        return values
    dense = constants.get("DENSE_LAYERS", [])
    if not isinstance(dense, list):
        raise UserError(f"{constants.path}: constant 'DENSE_LAYERS' is {dense!r}: must be a list of layers.")
    return values | read_back(fields.EXPERTS, constants, "model") | dense_layers(dense)
