"""Hugging Face: config.json, which holds the model and nothing of the training."""

import json
from typing import Any

from scaling.handoff.tokenizer import tokenizer_files, tokenizer_omission
from scaling.hf.write import hf_config
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
