"""The plan's tokenizer as every stack takes it: the folder of Hugging Face's AutoTokenizer."""

import json
from pathlib import Path

from fits.errors import UserError
from fits.files import read_text
from scaling.plan import TrainingPlan


def has_tokenizer(plan: TrainingPlan) -> bool:
    """Whether the plan's tokenizer file is on this machine."""
    return plan.tokenizer.file is not None and Path(plan.tokenizer.file).is_file()


def tokenizer_files(plan: TrainingPlan, folder: str = "") -> dict[str, str]:
    """File name -> content, in ``folder`` of the export; nothing when the plan has no tokenizer file here.

    Raises:
        UserError: the file is no tokenizer, or has more tokens than the plan says.
    """
    path = plan.tokenizer.file
    if path is None or not has_tokenizer(plan):
        return {}
    from vocab_study.study.huggingface import settings_files

    text = read_text(path)
    try:
        content = json.loads(text)
        tokens = {*content["model"]["vocab"], *(added["content"] for added in content["added_tokens"])}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: not a tokenizer.json of Hugging Face tokenizers; correct tokenizer.file.") from None
    if len(tokens) != plan.tokenizer.vocab_size:
        raise UserError(
            f"{path}: has {len(tokens)} tokens but tokenizer.vocab_size is {plan.tokenizer.vocab_size}; correct one."
        )
    files = {"tokenizer.json": text}
    files |= {name: json.dumps(content, indent=2) + "\n" for name, content in settings_files().items()}
    return {f"{folder}{name}": text for name, text in files.items()}


def tokenizer_omission(plan: TrainingPlan, place: str) -> list[str]:
    """What is left to do for the tokenizer; nothing when its files are in the export."""
    if has_tokenizer(plan):
        return []
    missing = f"{plan.tokenizer.file} is not on this machine" if plan.tokenizer.file else "the plan has no file"
    return [f"tokenizer: {missing}; {place}"]
