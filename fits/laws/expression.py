"""Arithmetic as people write it: parsed on Python's ast with a whitelist, never run as code.

One rule for names: letters, digits, underscores and dots stand as they are (``config.n_params``); any other name stands
in backquotes (```Model Size```), with a backquote inside it doubled. Laws, binds and row filters all use this.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fits.errors import UserError, nearest

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "arctan": np.arctan,
}

_ARITHMETIC: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARISONS: dict[type, str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_EVALUATE: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": np.logical_and,
    "or": np.logical_or,
}
_LONGEST = 4000


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Text:
    value: str


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Operation:
    """An operator (``+ - * / ** neg``, a comparison, ``and or not``) or a function, on its operands."""

    operator: str
    operands: tuple["Node", ...]


Node = Number | Text | Name | Operation


@lru_cache(maxsize=512)
def parse(text: str, *, conditions: bool = False) -> Node:
    """Parse an expression; ``conditions`` also allows comparisons, ``and or not`` and quoted text.

    Raises:
        UserError: the text is not an expression, or holds anything but the operators and functions above.
    """
    if len(text) > _LONGEST:
        raise UserError(f"The expression {text[:40]!r}... has {len(text)} characters; keep it below {_LONGEST}.")
    quoted: dict[str, str] = {}
    prefix = "quoted_"
    while prefix in text:
        prefix += "_"

    def replace(match: re.Match[str]) -> str:
        if not match.group().startswith("`"):
            return match.group()
        name = f"{prefix}{len(quoted)}"  # Python's parser takes no backquotes
        quoted[name] = match.group()[1:-1].replace("``", "`")
        return f" {name} "

    plain = re.sub(r"'[^']*'|\"[^\"]*\"|`(?:[^`]|``)+`", replace, text).strip()
    try:
        tree = ast.parse(plain, mode="eval")
        return _Reader(text, quoted, conditions).read(tree.body)
    except SyntaxError as error:
        raise UserError(f"The expression {text!r} cannot be read ({error.msg}); write it as in 'E + A/N**a'.") from None
    except (RecursionError, MemoryError, OverflowError, ValueError):
        raise UserError(f"The expression {text[:60]!r} is nested too deep or holds a number too long.") from None


@dataclass(frozen=True)
class _Reader:
    text: str
    quoted: Mapping[str, str]
    conditions: bool

    def read(self, tree: ast.expr) -> Node:
        match tree:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value):
                return Number(float(value))
            case ast.Constant(value=str(value)) if self.conditions:
                return Text(value)
            case ast.Name(id=name):
                return Name(self.quoted.get(name, name))
            case ast.Attribute() if (name := self._dotted(tree)) is not None:
                return Name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Operation("neg", (self.read(operand),))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.read(operand)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                return Operation(_ARITHMETIC[type(operator)], (self.read(left), self.read(right)))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return Operation(name, (self.read(argument),))
            case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
                raise UserError(f"The expression {self.text!r}: {name} takes exactly one argument.")
            case ast.Compare(left=left, ops=operators, comparators=rights) if self.conditions:
                return self._comparisons(left, operators, rights)
            case ast.BoolOp(op=operator, values=values) if self.conditions:
                word = "and" if isinstance(operator, ast.And) else "or"
                node = self.read(values[0])
                for value in values[1:]:
                    node = Operation(word, (node, self.read(value)))
                return node
            case ast.UnaryOp(op=ast.Not(), operand=operand) if self.conditions:
                return Operation("not", (self.read(operand),))
        part = ast.unparse(tree)
        for name, meant in sorted(self.quoted.items(), reverse=True):  # quoted_10 before quoted_1
            part = part.replace(name, f"`{meant}`")
        raise UserError(
            f"The expression {self.text!r} holds {part!r}, which is not allowed; use numbers, names, + - * / ** and "
            f"{', '.join(FUNCTIONS)}" + (", comparisons, and, or, not." if self.conditions else ".")
        )

    def _dotted(self, tree: ast.expr) -> str | None:
        """``config.n_params`` as one name; None when anything but plain names stands before the dots."""
        if isinstance(tree, ast.Attribute):
            before = self._dotted(tree.value)
            return before and f"{before}.{tree.attr}"
        return tree.id if isinstance(tree, ast.Name) and tree.id not in self.quoted else None

    def _comparisons(self, left: ast.expr, operators: list[ast.cmpop], rights: list[ast.expr]) -> Node:
        node: Node | None = None
        for operator, right in zip(operators, rights, strict=True):
            if type(operator) not in _COMPARISONS:
                raise UserError(f"The expression {self.text!r}: compare with one of < <= > >= == != only.")
            link = Operation(_COMPARISONS[type(operator)], (self.read(left), self.read(right)))
            node = link if node is None else Operation("and", (node, link))
            left = right
        assert node is not None
        return node


def as_written(name: str) -> str:
    """A name as an expression holds it: as it is, or in backquotes where it needs them."""
    try:
        if parse(name) == Name(name):
            return name
    except UserError:
        pass
    return "`" + name.replace("`", "``") + "`"


def written(node: Node) -> str:
    """The expression as text that ``parse`` reads back as the same."""
    match node:
        case Number(value):
            short = f"{value:g}"
            if float(short) != value:
                return repr(value)
            return re.sub(r"e\+?(-?)0*", r"e\1", short.replace("inf", "1e999"))
        case Text(value):
            return f"'{value}'"
        case Name(name):
            return as_written(name)
        case Operation("neg", (operand,)):
            return f"-{_inner(operand)}"
        case Operation("not", (operand,)):
            return f"not {_inner(operand)}"
        case Operation(operator, (operand,)):
            return f"{operator}({written(operand)})"
        case Operation(operator, (left, right)):
            space = "" if operator in _ARITHMETIC.values() else " "
            return f"{_inner(left)}{space}{operator}{space}{_inner(right)}"
    raise AssertionError(node)


def _inner(node: Node) -> str:
    """An operand, in brackets where it has operators of its own."""
    plain = not isinstance(node, Operation) or node.operator in FUNCTIONS
    return written(node) if plain else f"({written(node)})"


def names(node: Node) -> list[str]:
    """The names in an expression, in order of first appearance."""
    return list(dict.fromkeys(_names(node)))


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Operation):
        for operand in node.operands:
            yield from _names(operand)


def substitute(node: Node, replacements: Mapping[str, Node]) -> Node:
    """The expression with some names replaced by expressions."""
    if isinstance(node, Name):
        return replacements.get(node.name, node)
    if isinstance(node, Operation):
        return Operation(node.operator, tuple(substitute(operand, replacements) for operand in node.operands))
    return node


def simplified(node: Node) -> Node:
    """The expression without what a 0 or a 1 makes void: ``G**0``, ``1*a``, ``0*a``, ``0/a``, ``a + 0``."""
    if not isinstance(node, Operation):
        return node
    parts = tuple(simplified(operand) for operand in node.operands)
    zero, one = Number(0.0), Number(1.0)
    match node.operator, parts:
        case ("neg", (Number(value),)):
            return Number(0.0 - value)
        case ("**", (_, Number(0.0))) | ("**", (Number(1.0), _)):
            return one
        case ("*", (Number(0.0), _)) | ("*", (_, Number(0.0))) | ("/", (Number(0.0), _)):
            return zero
        case ("*", (Number(1.0), rest)) | ("*", (rest, Number(1.0))) | ("/", (rest, Number(1.0))):
            return rest
        case ("+", (Number(0.0), rest)) | ("+", (rest, Number(0.0))) | ("-", (rest, Number(0.0))):
            return rest
    return Operation(node.operator, parts)


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """The value of an expression over numbers or arrays; NumPy's rules for division by zero and broadcasting.

    Raises:
        UserError: a name has no value, or text meets a number.
    """
    with np.errstate(all="ignore"):
        return _evaluate(node, values)


def _evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    if isinstance(node, Number | Text):
        return node.value
    if isinstance(node, Name):
        if node.name not in values:
            raise UserError(f"'{node.name}' is not known here{nearest(node.name, values)}; known: {', '.join(values)}.")
        return values[node.name]
    operands = [_evaluate(operand, values) for operand in node.operands]
    try:
        if node.operator == "neg":
            return np.negative(operands[0])
        if node.operator == "not":
            return np.logical_not(operands[0])
        if node.operator == "**":
            return np.power(np.asarray(operands[0], dtype=float), operands[1])
        if node.operator in FUNCTIONS:
            return FUNCTIONS[node.operator](operands[0])
        return _EVALUATE[node.operator](*operands)
    except TypeError:
        about = " and ".join(dict.fromkeys(_names(node))) or "its operands"
        raise UserError(f"'{node.operator}' does not apply to {about}: text where a number is needed.") from None
