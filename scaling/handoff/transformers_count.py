"""What transformers itself makes of a config.json: the class is built without memory and its parameters counted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fits.errors import UserError
from scaling.installation.extras import require


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
