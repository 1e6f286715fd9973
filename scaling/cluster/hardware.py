"""Figures of accelerators, read from ``hardware.yaml`` and from a file of the user's own."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat

from fits.errors import UserError, nearest
from fits.schema import Count, Schema


class Gpu(Schema):
    """One accelerator; FLOP/s dense bf16, bytes, bytes/s in one direction."""

    peak_flops: PositiveFloat
    memory_bytes: PositiveFloat
    memory_bandwidth: PositiveFloat
    intra_node_bandwidth: PositiveFloat
    inter_node_bandwidth: PositiveFloat
    gpus_per_node: Count
    """GPUs that the fast links join."""
    source: str


class Hardware(Schema):
    """A file of accelerators by name: the package's own, or a user's with the same keys."""

    schema_version: Literal[1] = 1
    gpus: dict[str, Gpu]


@cache
def _own() -> dict[str, Gpu]:
    return Hardware.load(Path(__file__).with_name("hardware.yaml")).gpus


def gpus(file: str | Path | None = None) -> dict[str, Gpu]:
    """All known accelerators by name; those of ``file`` beside the package's own, or in their place.

    Raises:
        UserError: the file is missing or malformed.
    """
    added = Hardware.load(file).gpus if file else {}
    return _own() | {name.lower(): each for name, each in added.items()}


def gpu(name: str, file: str | Path | None = None) -> Gpu:
    """One accelerator by name, in any case.

    Raises:
        UserError: the name is unknown, or the file is missing or malformed.
    """
    known = gpus(file)
    if name.lower() not in known:
        raise UserError(
            f"unknown GPU '{name}'{nearest(name.lower(), known)}; known are {', '.join(known)}; "
            "another can be given in a file with --hardware."
        )
    return known[name.lower()]
