"""A law's formula as a person would write it: superscripts, Greek letters, no asterisks."""

from html import escape

from fits.laws.expression import Name, Node, Number, Operation, parse
from fits.laws.law import Law

_GREEK = {"alpha", "beta", "gamma", "delta", "kappa", "mu", "nu", "omega", "zeta", "sigma", "lambda"}
_FUNCTIONS = {"log": "ln", "log2": "log<sub>2</sub>", "log10": "log<sub>10</sub>"}
_SUM, _PRODUCT, _POWER = 1, 2, 3
"""How tightly operators bind; what binds less than its place allows gets parentheses."""


def equations(law: Law) -> list[str]:
    """The law and the definitions it uses, as HTML: one equation each."""
    lines = {law.response: law.formula, **law.definitions}
    return [f"{_name(left)} = {typeset(right)}" for left, right in lines.items()]


def typeset(formula: str) -> str:
    """An expression as HTML; names are escaped.

    Raises:
        UserError: it is not an expression.
    """
    return _write(parse(formula), _SUM)


def _write(node: Node, place: int) -> str:
    match node:
        case Number(value=value):
            return f"{value:g}".replace("-", "&minus;")
        case Name(name=name):
            return _name(name)
        case Operation(operator=operator, operands=operands):
            text, binds = _operation(operator, operands)
            return text if binds >= place else f"({text})"
        case _:
            return escape(str(node.value))


def _operation(operator: str, operands: tuple[Node, ...]) -> tuple[str, int]:
    """HTML of an operation, and how tightly it binds."""
    match operator, operands:
        case "+" | "-", (left, right):
            sign = "+" if operator == "+" else "&minus;"
            tighter = _SUM if operator == "+" else _PRODUCT
            return f"{_write(left, _SUM)} {sign} {_write(right, tighter)}", _SUM
        case "*", (left, right):
            dot = "&thinsp;&middot;&thinsp;" if isinstance(right, Number) else "&thinsp;"
            return f"{_write(left, _PRODUCT)}{dot}{_write(right, _PRODUCT)}", _PRODUCT
        case "/", (left, right):
            return f"{_write(left, _PRODUCT)}&thinsp;/&thinsp;{_write(right, _POWER)}", _PRODUCT
        case "**", (base, exponent):
            return f"{_write(base, _POWER + 1)}<sup>{_write(exponent, _SUM)}</sup>", _POWER
        case "neg", (operand,):
            return f"&minus;{_write(operand, _PRODUCT)}", _SUM
        case "abs", (operand,):
            return f"|{_write(operand, _SUM)}|", _POWER + 1
        case _, (operand,):
            inside = _write(operand, _SUM)
            return f"{_FUNCTIONS.get(operator, operator)}&thinsp;({inside})", _POWER
        case _:
            return escape(f" {operator} ").join(_write(each, _PRODUCT) for each in operands), _SUM


def _name(name: str) -> str:
    """A letter in italics, a word upright, what follows an underscore as an index."""
    if name in _FREE_OF_INDICES:
        return _FREE_OF_INDICES[name]
    stem, _, index = name.partition("_")
    if stem == "lam":
        stem = "lambda"
    written = f"&{stem};" if stem in _GREEK else f"<i>{escape(stem)}</i>" if len(stem) == 1 else escape(stem)
    return f"{written}<sub>{escape(index)}</sub>" if index else written


_FREE_OF_INDICES = {"bits_per_byte": "bits per byte", "Ehat": "<i>&Ecirc;</i>", "Ahat": "<i>&Acirc;</i>"}
