"""A tokenizer as the folder that Hugging Face ``AutoTokenizer.from_pretrained`` reads."""

from pathlib import Path
from typing import Any

from fits.files import write_json
from vocab_study.study.study import Study
from vocab_study.tokenizers.tokenizer import END_OF_TEXT, load, save


def export_tokenizer(study: Study, vocab_size: int, out: str | Path) -> Path:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json`` of one size.

    Raises:
        UserError: the study has no tokenizer of that size.
    """
    out = Path(out)
    save(load(study.tokenizer_file(vocab_size)), out / "tokenizer.json")
    for name, content in settings_files().items():
        write_json(out / name, content)
    return out


def settings_files() -> dict[str, dict[str, Any]]:
    """The two files beside ``tokenizer.json`` that say which class reads it and what its special token is."""
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,  # the model sets the limit, not the tokenizer
    }
    return {"special_tokens_map.json": special, "tokenizer_config.json": config | special}
