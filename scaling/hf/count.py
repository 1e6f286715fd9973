"""Exact counts of a config file: the project's own YAML or a Hugging Face config.json."""

from pathlib import Path
from typing import Any

from fits.errors import UserError
from fits.files import read_mapping
from fits.html import card
from fits.schema import Schema
from scaling.hf.read import parse_hf_config
from trainer_small.architecture import Architecture


class TrainingFlops(Schema):
    """Training FLOPs of one token: 3 x forward matmuls, router and head in, embedding look-up out."""

    sequence_length: int
    full_attention: int
    causal: int
    """Half of the attention products: what a fused causal kernel computes."""


class ModelCount(Schema):
    """Parameters and FLOPs of one model, in every convention that papers quote."""

    model_type: str
    """The Hugging Face model type, or ``architecture`` for the project's own file."""
    params_total: int
    params_active: int
    params_active_without_input_embedding: int
    params_active_non_embedding: int
    params_total_non_embedding: int
    by_role: dict[str, int]
    activation_ratio: float
    granularity: float
    flops_per_token: TrainingFlops
    warnings: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        flops = self.flops_per_token
        return card(
            self.model_type,
            columns=["", "count"],
            rows=[
                ["parameters", self.params_total],
                ["active", self.params_active],
                ["active without the input table", self.params_active_without_input_embedding],
                ["active without both vocabulary matrices", self.params_active_non_embedding],
                ["activation ratio A", self.activation_ratio],
                ["granularity G", self.granularity],
                [f"training FLOPs per token at {flops.sequence_length:,}, causal", flops.causal],
            ],
            notes=self.warnings,
        )


def count_file(path: str | Path, *, sequence_length: int = 4096) -> ModelCount:
    """Count the model that a file describes.

    Args:
        path: a config.json, an architecture in YAML or JSON (at the top level or under ``architecture`` or
            ``model``, as in a run's config or a plan), or a directory that holds one of them.
        sequence_length: tokens in a sequence, for the FLOPs.

    Raises:
        UserError: the file is missing, of a type not known, or impossible.
    """
    architecture, model_type, warnings = read_architecture(path)
    return count(architecture, sequence_length=sequence_length, model_type=model_type, warnings=warnings)


def count(
    architecture: Architecture,
    *,
    sequence_length: int = 4096,
    model_type: str = "architecture",
    warnings: tuple[str, ...] = (),
) -> ModelCount:
    """Count an architecture; ``sequence_length`` is in tokens.

    Raises:
        UserError: the sequence length is not above 0.
    """
    if sequence_length < 1:
        raise UserError(f"--sequence-length is {sequence_length}; it must be at least 1.")
    return ModelCount(
        model_type=model_type,
        params_total=architecture.params_total,
        params_active=architecture.params_active,
        params_active_without_input_embedding=architecture.params_active_without_input_embedding,
        params_active_non_embedding=architecture.params_active_non_embedding,
        params_total_non_embedding=architecture.params_total_non_embedding,
        by_role=architecture.params_by_role(),
        activation_ratio=architecture.activation_ratio,
        granularity=architecture.granularity,
        flops_per_token=TrainingFlops(
            sequence_length=sequence_length,
            full_attention=architecture.flops_per_token(sequence_length, causal=False),
            causal=architecture.flops_per_token(sequence_length),
        ),
        warnings=warnings,
    )


def read_architecture(path: str | Path) -> tuple[Architecture, str, tuple[str, ...]]:
    """The architecture in a file or directory, its model type and what the reader should know.

    Raises:
        UserError: the file is missing, of a type not known, or impossible.
    """
    path = _config_in(Path(path)) if Path(path).is_dir() else Path(path)
    content = read_mapping(path)
    if "model_type" in content:
        model = parse_hf_config(content, path)
        return model.architecture, model.model_type, model.warnings
    if path.name == "config.json" and "num_hidden_layers" in content:
        parse_hf_config(content, path)  # says which model types there are
    return Architecture.parse(_architecture_in(content), path), "architecture", ()


def _config_in(directory: Path) -> Path:
    names = ("config.json", "config.yaml", "plan.yaml")
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise UserError(f"{directory} has none of {', '.join(names)}; name the file.")


def _architecture_in(content: dict[str, Any]) -> Any:
    for key in ("architecture", "model"):
        if key in content:
            return content[key]
    return content
