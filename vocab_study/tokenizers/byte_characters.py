"""The printable characters that stand for bytes in byte-level tokenizers (GPT-2's alphabet)."""

from functools import cache


@cache
def byte_characters() -> tuple[str, ...]:
    """The character of each byte: itself where it is printable, else one from U+0100 up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


@cache
def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def byte_of(character: str) -> int:
    """The byte that a character stands for.

    Raises:
        KeyError: it stands for none.
    """
    return _bytes()[character]
