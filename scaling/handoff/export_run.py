"""A trained proxy as a Hugging Face folder: config.json, model.safetensors and, when it is given, its tokenizer."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fits.errors import UserError
from fits.files import write_json
from scaling.hf.write import hf_config
from scaling.installation.extras import require


@dataclass(frozen=True)
class ExportedRun:
    folder: Path
    model_type: str
    step: int
    """Of the checkpoint that was written."""
    parameters: int


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> ExportedRun:
    """Write the newest checkpoint of a run so that ``AutoModelForCausalLM.from_pretrained(out)`` opens it.

    The model computes what the trainer's does; the first token of a text must be ``<|endoftext|>``, as in training.

    Args:
        run: a run's folder.
        out: the folder to make.
        tokenizer: the ``tokenizer.json`` behind the run's tokens, to lie beside the weights.
        dtype: of the stored weights.

    Raises:
        UserError: the run has no checkpoint, no class of transformers is this model, the tokenizer is another one
            than the run's, or ``out`` is there already.
    """
    require("safetensors", "hf")
    import torch
    from safetensors.torch import save_file

    from trainer_small.config import RunConfig
    from trainer_small.data.tokens import read_manifest
    from trainer_small.model.hf_weights import to_hugging_face
    from trainer_small.runs.checkpoint import load_checkpoint

    run, out = Path(run), Path(out)
    if out.exists():
        raise UserError(f"{out} is there already; choose another folder or remove it.")
    config = RunConfig.load(run / "config.yaml")
    content = hf_config(config.architecture, max_position_embeddings=config.training.sequence_length, dtype=dtype)
    state = load_checkpoint(run, torch.device("cpu"))
    if state is None:
        raise UserError(f"{run} has no checkpoint; train it with: scaling sweep run-one {run}")
    manifest = read_manifest(run / config.data.sources[0].tokens)
    content |= {"bos_token_id": manifest.end_of_text, "eos_token_id": manifest.end_of_text}
    weights = {name: part.to(getattr(torch, dtype)) for name, part in state["model"].items()}
    weights = to_hugging_face(weights, config.architecture, content["model_type"])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        write_json(partial / "config.json", content)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            _add_tokenizer(Path(tokenizer), manifest.tokenizer_sha256, run, partial)
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return ExportedRun(out, content["model_type"], state["step"], config.architecture.params_total)


def _add_tokenizer(path: Path, sha256: str, run: Path, folder: Path) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the tokenizer's path.") from None
    if hashlib.sha256(text).hexdigest() != sha256:
        raise UserError(f"{path} is not the tokenizer that made the tokens of {run}; give that one.")
    (folder / "tokenizer.json").write_bytes(text)
    special: dict[str, Any] = {key: "<|endoftext|>" for key in ("bos_token", "eos_token")}
    special |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=2) + "\n")
