"""Figures of accelerators, read from ``hardware.yaml``."""

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
    source: str


class _Hardware(Schema):
    schema_version: Literal[1] = 1
    gpus: dict[str, Gpu]


@cache
def gpus() -> dict[str, Gpu]:
    """All known accelerators by name."""
    return _Hardware.load(Path(__file__).with_name("hardware.yaml")).gpus


def gpu(name: str) -> Gpu:
    """One accelerator by name, in any case.

    Raises:
        UserError: the name is unknown.
    """
    known = gpus()
    if name.lower() not in known:
        raise UserError(f"unknown GPU '{name}'{nearest(name.lower(), known)}; known are {', '.join(known)}.")
    return known[name.lower()]
