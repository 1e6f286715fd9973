"""The assumptions of the memory and time model, each a number with a name, read from ``assumptions.yaml``."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from fits.schema import Schema

Fraction = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Schema):
    """What the data sheets do not say; meanings, units and reasons stand beside the values in ``assumptions.yaml``."""

    schema_version: Literal[1] = 1
    weight_bytes: PositiveFloat
    gradient_bytes: PositiveFloat
    optimizer_bytes: PositiveFloat
    sharded_optimizer: bool
    usable_memory: Fraction
    expert_imbalance: float = Field(ge=1)
    logit_bytes: float = Field(ge=0)
    matmul_efficiency: Fraction
    grouped_matmul_efficiency: Fraction
    attention_forward_efficiency: Fraction
    attention_backward_efficiency: Fraction
    fp8_speedup: PositiveFloat
    fp8_grouped_speedup: PositiveFloat
    bandwidth_efficiency: Fraction
    elementwise_passes: PositiveFloat
    layer_overhead_seconds: float = Field(ge=0)
    time_imbalance: float = Field(ge=1)
    intra_node_efficiency: Fraction
    inter_node_efficiency: Fraction
    collective_latency_seconds: float = Field(ge=0)
    one_copy_per_node: bool
    all_to_all_hidden: float = Field(ge=0, le=1)
    tensor_parallel_hidden: float = Field(ge=0, le=1)
    pipeline_hidden: float = Field(ge=0, le=1)


@cache
def usual_assumptions() -> Assumptions:
    """Those of the package's own file."""
    return Assumptions.load(Path(__file__).with_name("assumptions.yaml"))
