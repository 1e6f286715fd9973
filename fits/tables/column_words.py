"""The words of a column's name, and the unit that a name ends in."""

import re

SCALES = {
    **dict.fromkeys(("k", "kb", "thousand", "thousands", "1e3"), "1e3"),
    **dict.fromkeys(("m", "mb", "mn", "mln", "mio", "million", "millions", "1e6"), "1e6"),
    **dict.fromkeys(("b", "g", "gb", "bn", "billion", "billions", "1e9"), "1e9"),
    **dict.fromkeys(("t", "tb", "tn", "trillion", "trillions", "1e12"), "1e12"),
}
"""Words for many, each with the number that one of them is."""


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, small: ``config.nParams (B)`` has config, n, params, b."""
    parted = re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])",
        " ",
        name.replace("w/o", "without").replace("FLOPs", "flops"),
    )
    return tuple(re.findall(r"[^\W_]+", parted.lower()))


def scale_of(name: str) -> str | None:
    """What one of a column's numbers counts, as its name says: ``tokens (B)`` and ``n_params_b`` are in 1e9."""
    words = words_of(name)
    return next((SCALES[word] for word in reversed(words[1:]) if word in SCALES), None)
