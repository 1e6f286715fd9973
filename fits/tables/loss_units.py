"""In which unit a loss is: nats a token, or bits a byte of text, which alone compares across tokenizers."""

from collections.abc import Collection

from fits.errors import UserError
from fits.laws.expression import Name, names, parse
from fits.laws.law import Law
from fits.tables.column_words import words_of

NATS, BITS_PER_BYTE, PERPLEXITY = "nats per token", "bits per byte", "perplexity"
BITS_PER_TOKEN, NATS_PER_BYTE, BITS_PER_CHARACTER = "bits per token", "nats per byte", "bits per character"
_MENDS = {PERPLEXITY: "log({})", BITS_PER_TOKEN: "{}*log(2)", NATS_PER_BYTE: "{}/log(2)"}
"""How a loss in another unit is bound."""
UNITS = {"loss": "nats/token", "bits_per_byte": "bits/byte"}


def unit_named(words: Collection[str]) -> str | None:
    """The unit that the words of a column's name say, None when they say none."""
    has = set(words)
    if has & {"ppl", "perplexity"}:
        return PERPLEXITY
    bits, nats = bool(has & {"bit", "bits"}), bool(has & {"nat", "nats"})
    if "bpb" in has or (bits and "byte" in has):
        return BITS_PER_BYTE
    if "bpc" in has or (bits and has & {"char", "character"}):
        return BITS_PER_CHARACTER
    if "bpt" in has or (bits and "token" in has):
        return BITS_PER_TOKEN
    return NATS_PER_BYTE if nats and "byte" in has else NATS if nats else None


def unit_of_loss(law: Law, bound_to: str, given: str | None) -> tuple[str, list[str]]:
    """The unit of a fitted loss, and what has to be asked about it.

    Args:
        bound_to: expression over the table's columns.
        given: ``loss`` or ``bits_per_byte`` as the user states it.

    Raises:
        UserError: ``given`` is neither, or the column's name says another unit.
    """
    if given is not None:
        if given not in UNITS:
            raise UserError(f"--means loss={given}: a loss is 'loss' (nats a token) or 'bits_per_byte'.")
        return UNITS[given], []
    if law.response not in UNITS:
        return law.unit, []
    said = {unit_named(words_of(name)) for name in names(parse(bound_to))}
    plain = isinstance(parse(bound_to), Name)
    if said == {BITS_PER_BYTE}:
        ask = f"the loss, {bound_to}, is taken as bits a byte of text; if it is nats a token, say --means loss=loss."
        return UNITS["bits_per_byte"], [] if plain else [ask]
    for unit, mend in _MENDS.items():
        if plain and said == {unit}:
            raise UserError(
                f"'{bound_to}' is {unit} by its name, and law '{law.name}' is of nats a token or bits a byte; bind "
                f"loss='{mend.format(bound_to)}', or say what it is with --means loss=loss."
            )
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
