"""Numbers for reading: sensible digits, real exponents, intervals."""

import math

from fits.numbers import count as _count
from fits.numbers import quantity as _quantity

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NOTICEABLE = 0.005
"""Per cent below which a difference is none."""
NOTHING, PER_CENT, TIMES, MINUS = "\u2013", "\u00a0%", "\u00a0\u00d7\u00a0", "\u2212"


def short(value: float | None) -> str:
    """A count in three digits: 31.2B, 4.1M, 512."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return _count(float(f"{value:.3g}"))


def quantity(value: float | None) -> str:
    """Four significant digits, powers of ten written as such: 1.847, 2.55 x 10²⁴."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = _quantity(float(value))
    mantissa, _, exponent = text.partition("e")
    return f"{float(mantissa):g}{TIMES}10{_raised(int(exponent))}" if exponent else text.replace("-", MINUS)


def fixed(value: float) -> str:
    """Three decimals, so that a column of losses lines up."""
    return f"{value:.3f}"


def rough(value: float, digits: int = 3) -> str:
    """Fewer digits, for the ends of an interval."""
    return quantity(float(f"{value:.{digits}g}"))


def plain(value: float) -> str:
    """A size as a config file has it: 16384, 7.5."""
    return f"{value:.6g}"


def decades(value: float | None) -> str:
    """Factors of ten to one digit: 3.6."""
    return NOTHING if value is None else f"{value:.1f}"


def about(value: float) -> str:
    """Two significant digits: 39, 0.12, 130."""
    return plain(float(f"{value:.2g}"))


def flops(value: float | None) -> str:
    """Three digits and a power of ten: 2.55 x 10²⁴."""
    if value is None or not math.isfinite(value):
        return NOTHING
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}{TIMES}10{_raised(int(exponent))}"


def power(value: float) -> str:
    """A tick of a logarithmic axis: 10¹⁵, 3·10¹⁵."""
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    return ("" if abs(mantissa - 1) < 1e-6 else f"{mantissa:.2g}·") + f"10{_raised(exponent)}"


def percent(value: float | None) -> str:
    """A signed fraction in per cent, two digits: +0.4 %, -12 %, +250 %."""
    if value is None or not math.isfinite(value):
        return NOTHING
    hundredths = 100 * value
    if abs(hundredths) < _NOTICEABLE:
        return f"0{PER_CENT}"
    text = f"{hundredths:+.0f}" if abs(hundredths) >= 10 else f"{hundredths:+.2g}"
    return f"{text}{PER_CENT}".replace("-", MINUS)


def share(value: float) -> str:
    """A fraction without a sign in per cent: 0.4 %."""
    return percent(value).lstrip("+")


def vocabulary(value: float) -> str:
    """A vocabulary size as people say it: 512, 4096, 128k."""
    if value < 10_000:
        return f"{value:.0f}"
    return f"{value / 1024:.0f}k" if value % 1024 == 0 else whole(value)


def whole(value: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u2009")


def _raised(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)
