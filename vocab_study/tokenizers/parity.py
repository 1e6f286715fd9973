"""Parity: how many more tokens the same content takes in one language than in another, at every vocabulary size.

Petrov et al. (arXiv 2305.15425): tokens of a language over tokens of the reference, on aligned text.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from fits.errors import UserError, nearest
from vocab_study.corpus.sources import DAMAGED, open_lines
from vocab_study.tokenizers.compression import count_tokens, unmerge
from vocab_study.tokenizers.merge_tree import MergeTree

_NO_LANGUAGE = ("id", "source")


def parity_curves(path: str | Path, tokenizer: Tokenizer, tree: MergeTree, reference: str = "en") -> pd.DataFrame:
    """Columns ``language, records, vocab_size, tokens, reference_tokens, parity``: a row for each language and size.

    Args:
        path: JSON Lines (plain, ``.gz`` or ``.zst``); every field of a record but ``id`` and ``source`` is the same
            content in the language that the field is named after. A record may lack languages.
        tokenizer: of the largest size.
        tree: the same taken apart.
        reference: the language that the others are held against.

    Raises:
        UserError: a line is no such record, or the reference occurs in none.
    """
    records = _read(Path(path))
    languages = list(dict.fromkeys(name for record in records for name in record))
    if reference not in languages:
        raise UserError(
            f"{path} has no text in '{reference}'{nearest(reference, languages)}; hold the others against one of "
            f"{', '.join(languages)}."
        )
    blocks = []
    for language in languages:
        both = [record for record in records if language in record and reference in record]
        if language == reference or not both:
            continue
        texts = ((name, record[name]) for record in both for name in (language, reference))
        counts = count_tokens(tokenizer, texts)
        tokens, against = (
            unmerge(counts[name][tree.ids], tree.left, tree.right).tokens for name in (language, reference)
        )
        blocks.append(
            pd.DataFrame(
                {
                    "language": language,
                    "records": len(both),
                    "vocab_size": np.arange(tree.smallest_size, tree.smallest_size + len(tokens)),
                    "tokens": tokens,
                    "reference_tokens": against,
                    "parity": np.round(tokens / against, 6),
                }
            )
        )
    if not blocks:
        raise UserError(f"{path} has text in '{reference}' alone; parity needs the same records in other languages.")
    return pd.concat(blocks, ignore_index=True)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open_lines(path) as lines:
            return [_texts(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    except DAMAGED as error:
        raise UserError(f"{path}: the compressed data breaks off or is none ({error}); fetch the file again.") from None


def _texts(path: Path, number: int, line: bytes) -> dict[str, str]:
    """The text of each language in one record."""
    try:
        content: Any = json.loads(line)
    except (ValueError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} line {number} is no JSON record with a field for each language; mend it.")
    texts = {name: text for name, text in content.items() if name not in _NO_LANGUAGE and text}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{path} line {number}: field '{name}' is no text; mend it or leave it out.")
    return texts
