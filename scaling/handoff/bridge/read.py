"""Megatron-Bridge overrides -> the run: the fields are turned back into the flags that they are."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from fits.errors import UserError, nearest
from fits.files import read_mapping, read_text
from scaling.cluster.run import Run
from scaling.handoff.bridge.write import NEGATED, PRECISIONS, field_of, known_fields
from scaling.handoff.megatron.read import in_flags, run_of_flags


def read_bridge(path: str | Path, *, gpus: int | None = None) -> Run:
    """Read an override file back into the run it describes.

    Args:
        path: the YAML.
        gpus: of the job, which Megatron-Bridge takes from its launcher; without it there is no layout.

    Raises:
        UserError: a section or field that Megatron-Bridge does not have, or one that is missing or impossible.
    """
    values = _fields(read_mapping(path), path)
    if values.get("model.seq_length") != values.get("dataset.sequence_length"):
        raise UserError(
            f"{path}: field 'dataset.sequence_length' is {values.get('dataset.sequence_length')!r} but "
            f"model.seq_length is {values.get('model.seq_length')!r}; make them equal."
        )
    precision = values.get("mixed_precision")
    if precision not in PRECISIONS.values():
        known = ", ".join(str(name) for name in PRECISIONS.values())
        raise UserError(f"{path}: 'mixed_precision' is {precision!r}; known here are {known}.")
    flags = {flag: values[field] for flag, field in _flags().items() if values.get(field) is not None}
    flags |= {flag: not flags[flag] for flag in NEGATED if flag in flags}
    if isinstance(flags.get("--recompute-modules"), list):
        flags["--recompute-modules"] = " ".join(str(module) for module in flags["--recompute-modules"])
    flags["--group-query-attention"] = "--num-query-groups" in flags
    flags["--bf16"] = precision is not None
    flags["--fp8-format"] = "hybrid" if precision == PRECISIONS["fp8"] else None
    try:
        return run_of_flags(flags, {"GPUS": gpus}, path)
    except UserError as error:
        raise UserError(in_fields(str(error))) from None


def in_fields(sentence: str) -> str:
    """A sentence about the run or its flags in the words of this file."""
    words = in_flags(sentence).replace("--vocab-size", "--padded-vocab-size").replace("flag '", "field '")
    return re.sub(r"--[a-z][a-z0-9-]+", lambda match: _flags().get(match[0], match[0]), words)


@cache
def _flags() -> dict[str, str]:
    """Flag -> field, for the flags that this reader understands."""
    names = read_text(Path(__file__).parents[1] / "megatron" / "flags.txt").split()
    found = {}
    for flag in names:
        try:
            found[flag] = field_of(flag)
        except StopIteration:
            continue
    return found


def _fields(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """``section.field`` -> value, each name checked."""
    sections = {name.partition(".")[0] for name in known_fields()}
    values: dict[str, Any] = {}
    for section, fields in content.items():
        if section not in sections:
            raise UserError(
                f"{path}: Megatron-Bridge has no section '{section}'{nearest(str(section), sections)}; "
                "rename or remove it."
            )
        if not isinstance(fields, dict):
            values[section] = fields
            continue
        for field, value in fields.items():
            name = f"{section}.{field}"
            if name not in known_fields():
                raise UserError(
                    f"{path}: Megatron-Bridge has no field '{name}'{nearest(name, known_fields())}; "
                    "rename or remove it."
                )
            values[name] = value
    return values
