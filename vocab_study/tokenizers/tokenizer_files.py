"""Tokenizers made elsewhere: Hugging Face ``tokenizer.json`` and tiktoken's ``.tiktoken``."""

import base64
import binascii
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models

from fits.errors import UserError
from vocab_study.tokenizers.byte_characters import byte_characters
from vocab_study.tokenizers.split_patterns import PATTERNS, byte_level_splitter
from vocab_study.tokenizers.tokenizer import END_OF_TEXT, load


def read_tokenizer(path: str | Path, pretokenizer: str | None = None) -> Tokenizer:
    """Read a tokenizer by the ending of its file.

    Args:
        path: ``tokenizer.json``, a folder that holds one, or ``.tiktoken``.
        pretokenizer: the split pattern of a ``.tiktoken`` file, which does not hold it; ``None`` knows it by the
            file's name.

    Raises:
        UserError: the file is missing or malformed, or its split pattern is not known.
    """
    path = Path(path)
    if path.suffix == ".tiktoken":
        return _read_tiktoken(path, pretokenizer)
    if pretokenizer is not None:
        raise UserError(f"{path} has its own split pattern; leave --pretokenizer out.")
    tokenizer = load(path / "tokenizer.json" if path.is_dir() else path)
    content = json.loads(tokenizer.to_str())
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None  # a curve of chance would be no curve
        tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def _read_tiktoken(path: Path, pretokenizer: str | None) -> Tokenizer:
    """A rank file as a Hugging Face tokenizer, with ``<|endoftext|>`` after the ranks.

    tiktoken merges any neighbours whose joint bytes have a rank, the lowest first; as merges, that is every way to
    split each token in two.
    """
    name = pretokenizer or next((name for name in PATTERNS if path.name.startswith(name)), None)
    if name is None:
        raise UserError(f"{path} does not say how it splits text; give --pretokenizer ({', '.join(PATTERNS)}).")
    ranks = _ranks(path)
    shown = byte_characters()
    names = {token: "".join(shown[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        ways = [(a, b) for a, b in splits if a in ranks and b in ranks]
        merges += [(names[a], names[b]) for a, b in sorted(ways, key=lambda way: (ranks[way[0]], ranks[way[1]]))]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = byte_level_splitter(name)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path.") from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise UserError(
                    f"{path} line {number} is no token in base64 and its rank; fetch the file again."
                ) from None
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise UserError(f"{path} lacks {missing} of the 256 single bytes; fetch the file again.")
    return ranks
