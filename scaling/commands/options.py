"""What options hold: lists of whole numbers, and NAME=VALUE pairs."""

from fits.errors import UserError
from fits.schema import whole_number


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """A list such as 1024,2048."""
    try:
        return tuple(whole_number(part) for part in text.split(",") if part.strip())
    except (ValueError, OverflowError):
        raise UserError(
            f"{option} is '{text}'; it must be whole numbers with commas between, such as 1024,2048."
        ) from None


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping."""
    result = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UserError(f"{option} {text!r} is not NAME=VALUE.")
        if name.strip() in result:
            raise UserError(
                f"{option} gives {name.strip()} twice, {result[name.strip()]} and {value.strip()}; keep one."
            )
        result[name.strip()] = value.strip()
    return result


def numbers(given: dict[str, str], option: str) -> dict[str, float]:
    """The same with every value a number."""
    result = {}
    for name, value in given.items():
        try:
            result[name] = float(value)
        except ValueError:
            raise UserError(f"{option} {name}={value}: {value!r} is not a number.") from None
    return result
