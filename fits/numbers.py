"""Numbers for reading: few digits, and letters for thousands, millions and billions."""


def quantity(value: float) -> str:
    """A number for reading: four significant digits, scientific when very large or small."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.3e}"


def count(value: float) -> str:
    """A count for reading: 31.2B, 4.10M, 512."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"
