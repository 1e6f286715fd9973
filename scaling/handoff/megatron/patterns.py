"""Megatron-LM's two little languages: which layers have experts, and which layers a pipeline stage holds."""

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fits.errors import UserError
from trainer_small.architecture import Architecture

_LONGEST = 20_000
"""Characters of a written-out pipeline layout, beyond which it is nonsense."""


def layer_pattern(model: Architecture) -> str:
    """Which layers have experts: ``([0]*3+[1]*58)``."""
    kinds = groupby(int(model.is_moe_layer(layer)) for layer in range(model.num_layers))
    return "(" + "+".join(f"[{kind}]*{len(list(layers))}" for kind, layers in kinds) + ")"


def parse_layer_pattern(text: Any, layers: int, source: str | Path) -> list[int]:
    """1 for each layer with experts, from ``([0]*3+[1]*58)``, a list, or a number N (every Nth).

    Raises:
        UserError: not such a pattern, or not one entry a layer.
    """
    if isinstance(text, int) or str(text).isdigit():
        return [int(layer % max(int(text), 1) == 0) for layer in range(layers)]
    bare = re.sub(r"[\s()]", "", str(text))
    if not re.fullmatch(r"\[[01](,[01])*\](\*\d{1,5})?(\+\[[01](,[01])*\](\*\d{1,5})?)*", bare):
        raise UserError(f"{source}: flag '--moe-layer-freq' is {text!r}; write it as ([0]*3+[1]*58).")
    pattern: list[int] = []
    for part in bare.split("+"):
        kinds, _, times = part.partition("]*")
        pattern += [int(kind) for kind in kinds.strip("[]").split(",")] * int(times or 1)
    if len(pattern) != layers:
        raise UserError(
            f"{source}: flag '--moe-layer-freq' {text!r} names {len(pattern)} layers but --num-layers is {layers}; "
            "correct one."
        )
    return pattern


def pipeline_layout(stage_layers: Sequence[int]) -> str:
    """Layers of each pipeline chunk, in order: ``Et*3|t*4|t*3L``."""
    return "E" + "|".join(f"t*{count}" for count in stage_layers) + "L"


def parse_pipeline_layout(text: str, stages: int, layers: int, source: str | Path) -> tuple[int, ...]:
    """Layers of each chunk; E embedding, t layer, m next-token module, L loss, | a chunk's end, * repeats.

    Raises:
        UserError: not such a layout, other layers than the model has, or chunks that ``stages`` does not divide.
    """
    name = f"{source}: flag '--pipeline-model-parallel-layout'"
    written = text.replace(",", "").replace(" ", "")
    while len(written) <= _LONGEST:
        opened = re.sub(r"\(([^()]*)\)\*(\d{1,4})", lambda match: match[1] * int(match[2]), written)
        opened = re.sub(r"([EtmL|])\*(\d{1,4})", lambda match: match[1] * int(match[2]), opened)
        if opened == written:
            break
        written = opened
    if not re.fullmatch(r"[EtmL|]+", written) or len(written) > _LONGEST:
        raise UserError(f"{name} is {text[:80]!r}; write it as Et*3|(t*4|)*2t*2L.")
    chunks = written.split("|")
    if written.count("t") != layers:
        raise UserError(f"{name} holds {written.count('t')} layers but --num-layers is {layers}; correct one.")
    if len(chunks) % stages:
        raise UserError(
            f"{name} has {len(chunks)} stages, not a multiple of --pipeline-model-parallel-size {stages}; correct one."
        )
    if not (written.startswith("E") and chunks[-1].endswith("L") and written.count("E") == written.count("L") == 1):
        raise UserError(f"{name} is {text[:80]!r}: must begin with the embedding E and end with the loss L.")
    return tuple(chunk.count("t") for chunk in chunks)
