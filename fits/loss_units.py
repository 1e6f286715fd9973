"""In which unit a loss is: nats a token, or bits a byte of text, which alone compares across tokenizers."""

from fits.column_words import words_of
from fits.errors import UserError
from fits.expression import Name, names, parse
from fits.law import Law

UNITS = {"loss": "nats/token", "bits_per_byte": "bits/byte"}


def is_bits_per_byte(name: str) -> bool:
    """Whether a column's name says so: ``val/bpb``, ``bits_per_byte``, ``eval.BitsPerByte``."""
    words = words_of(name)
    return "bpb" in words or "_".join(words).endswith(("bits_per_byte", "bit_per_byte", "bits_byte"))


def unit_of_loss(law: Law, bound_to: str, given: str | None) -> tuple[str, list[str]]:
    """The unit of a fitted loss, and what has to be asked about it.

    Args:
        bound_to: expression over the table's columns.
        given: ``loss`` or ``bits_per_byte`` as the user states it.

    Raises:
        UserError: ``given`` is neither.
    """
    if given is not None:
        if given not in UNITS:
            raise UserError(f"--means loss={given}: a loss is 'loss' (nats a token) or 'bits_per_byte'.")
        return UNITS[given], []
    if law.response not in UNITS:
        return law.unit, []
    said = {is_bits_per_byte(name) for name in names(parse(bound_to))}
    if said == {True}:
        return UNITS["bits_per_byte"], []
    plain = isinstance(parse(bound_to), Name)
    if law.unit == UNITS["bits_per_byte"]:
        return law.unit, [
            f"'{bound_to}' is taken as bits a byte of text, as law '{law.name}' has it; if it is nats a token, say so "
            "with --means loss=loss."
        ]
    if not plain:
        return law.unit, [
            f"the loss, {bound_to}, is taken as {law.unit}; if it is bits a byte of text, say so with "
            "--means loss=bits_per_byte."
        ]
    return law.unit, []
