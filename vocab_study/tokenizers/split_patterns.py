"""How text is cut into pre-tokens before byte pairs are merged: the published patterns, by name."""

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from fits.errors import UserError, nearest

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"

PATTERNS = {
    "gpt2": r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+" + rf"|{_SIGNS}" + r"|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_SPACES}",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_CONTRACTION}?|\p{{N}}{{1,3}}|{_SIGNS}[\r\n/]*|{_SPACES}",
    "qwen2": rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SIGNS}[\r\n]*|{_SPACES}",
}
"""GPT-2's, those of tiktoken's cl100k_base (Llama 3's too) and o200k_base, and Qwen2's, where digits stand alone."""


def split_pattern(name: str) -> str:
    """The regular expression of a name.

    Raises:
        UserError: there is no such pattern.
    """
    if name not in PATTERNS:
        raise UserError(
            f"pretokenizer '{name}' is not known{nearest(name, PATTERNS)}; there are {', '.join(PATTERNS)}."
        )
    return PATTERNS[name]


def byte_level_splitter(name: str) -> PreTokenizer:
    """The pattern as a Hugging Face pre-tokenizer that also turns bytes into printable characters.

    Raises:
        UserError: there is no such pattern.
    """
    pattern = split_pattern(name)
    if name == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
