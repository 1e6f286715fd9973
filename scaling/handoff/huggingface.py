"""Hugging Face: config.json, which holds the model and nothing of the training; and its count by transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fits.errors import UserError
from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.hf.write import hf_config
from scaling.installation.extras import require
from scaling.plan import TrainingPlan

NAME = "hf"
TARGET = "transformers 5.23.0"
VERSION = "5.23.0"


def files(plan: TrainingPlan) -> dict[str, str]:
    """File name -> content.

    Raises:
        UserError: no class of transformers computes this model exactly.
    """
    return {"config.json": json.dumps(config(plan), indent=2) + "\n", **tokenizer_files(plan)}


def config(plan: TrainingPlan) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        UserError: no class of transformers computes this model exactly.
    """
    content = hf_config(
        plan.model,
        max_position_embeddings=plan.sequence_length,
        initializer_range=plan.optimizer.init_std,
        dtype="float32" if plan.precision == "fp32" else "bfloat16",
    )
    # The project's tokenizers have one special token, <|endoftext|>, with id 0: it ends each document.
    return content | {"eos_token_id": 0, "transformers_version": VERSION}


def omissions(plan: TrainingPlan) -> list[str]:
    """What the plan says and config.json has no place for."""
    found = [
        "optimizer, schedule, batch, precision of the arithmetic and parallel layout: config.json holds the model only"
    ]
    return found + tokenizer_omission(plan, "put tokenizer.json beside config.json")


def count_with_transformers(config: Mapping[str, Any], source: str | Path) -> int:
    """Trainable parameters of the model that transformers builds from ``config`` (tied matrices once).

    Raises:
        NotInstalled: transformers is not here.
        UserError: transformers refuses the config.
    """
    require("transformers", "hf")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config.items() if key != "model_type"}
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **values))
    except Exception as error:  # whatever the class raises is its verdict on the file
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: transformers refuses it: {reason[:300]}; correct the config.") from None
    return sum(parameter.numel() for parameter in model.parameters())
