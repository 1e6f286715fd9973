"""A scaling law as data: a formula, its variables with their conventions, its parameters with their domains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from fits.errors import UserError, nearest
from fits.html import card
from fits.laws.expression import Node, evaluate, names, parse, substitute

Domain = Literal["positive", "real"] | tuple[float, float]
"""What values a parameter may take: above zero, any, or strictly between two numbers."""


@dataclass(frozen=True)
class Variable:
    """An input of a law: its name in the formula, what it counts, and the run-table column or expression it is."""

    name: str
    meaning: str
    column: str | None = None


@dataclass(frozen=True)
class Parameter:
    """A coefficient: its domain, and the range in which a search for it should begin."""

    name: str
    meaning: str = ""
    domain: Domain = "positive"
    typical: tuple[float, float] = (0.05, 1.0)


@dataclass(frozen=True)
class Law:
    """A scaling law. Everything else (derivatives, solver structure) is found from the formula.

    ``definitions`` name parts of the formula, each in terms of variables, parameters and earlier definitions.
    """

    name: str
    formula: str
    variables: tuple[Variable, ...]
    parameters: tuple[Parameter, ...]
    response: str = "loss"
    unit: str = "nats/token"
    response_column: str = "loss"
    source: str = ""
    notes: str = ""
    definitions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def expression(self) -> Node:
        """The formula with its definitions written out."""
        known: dict[str, Node] = {}
        for name, text in self.definitions.items():
            known[name] = substitute(parse(text), known)
        return substitute(parse(self.formula), known)

    @property
    def variable_names(self) -> list[str]:
        return [variable.name for variable in self.variables]

    @property
    def parameter_names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name.

        Raises:
            UserError: the law has none of that name.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise UserError(
            f"Law '{self.name}' has no parameter '{name}'{nearest(name, self.parameter_names)}; "
            f"it has {', '.join(self.parameter_names)}."
        )

    def _repr_html_(self) -> str:
        rows = [["variable", each.name, each.meaning, each.column or ""] for each in self.variables]
        rows += [["parameter", each.name, each.meaning, ""] for each in self.parameters]
        return card(
            self.name,
            about=f"{self.unit}; {self.source}",
            code="\n".join([f"{self.response} = {self.formula}", *(f"{k} = {v}" for k, v in self.definitions.items())]),
            columns=["", "name", "meaning", "column"],
            rows=rows,
            notes=[self.notes] if self.notes else [],
        )

    def evaluate(self, parameters: Mapping[str, Any], variables: Mapping[str, Any]) -> Any:
        """The law's value; arrays broadcast.

        Raises:
            UserError: a variable or parameter is missing or unknown.
        """
        for kind, known, given in (
            ("variable", self.variable_names, variables),
            ("parameter", self.parameter_names, parameters),
        ):
            for name in given:
                if name not in known:
                    raise UserError(
                        f"Law '{self.name}' has no {kind} '{name}'{nearest(name, known)}; it has {', '.join(known)}."
                    )
            missing = [name for name in known if name not in given]
            if missing:
                raise UserError(f"Law '{self.name}' needs {kind} {', '.join(missing)}; give a value.")
        values = {name: np.asarray(value, dtype=float) for name, value in {**variables, **parameters}.items()}
        return evaluate(self.expression, values)


def custom_law(
    formula: str,
    variables: Sequence[str],
    *,
    domains: Mapping[str, Domain] | None = None,
    starts: Mapping[str, float] | None = None,
    name: str = "custom",
) -> Law:
    """A law from a formula; every name that is not a variable is a parameter, positive unless ``domains`` says other.

    Raises:
        UserError: the formula cannot be read, lacks a variable, leaves N or D unbound, or has no parameter.
    """
    domains, starts = dict(domains or {}), dict(starts or {})
    found = names(parse(formula))
    if not variables:
        raise UserError(f"No variable of {formula!r} is bound to a column; bind those that it has, such as N and D.")
    for each in ("N", "D"):
        if each in found and each not in variables and not {each} & {*(domains or {}), *(starts or {})}:
            raise UserError(
                f"{each} of {formula!r} is bound to no column and would be fitted as a coefficient; bind it, or give a "
                "coefficient another name."
            )
    for variable in variables:
        if variable not in found:
            raise UserError(f"The formula {formula!r} does not hold the variable '{variable}'; bind only what it uses.")
    free = [each for each in found if each not in variables]
    if not free:
        raise UserError(f"The formula {formula!r} has no parameter to fit; every name in it is bound to a column.")
    for given in (*domains, *starts):
        if given not in free:
            raise UserError(
                f"'{given}' is no parameter of {formula!r}{nearest(given, free)}; it has {', '.join(free)}."
            )
    parameters = []
    for each in free:
        domain = domains.get(each, "positive")
        typical = (-1.0, 1.0) if domain == "real" else (0.05, 1.0) if isinstance(domain, str) else domain
        if each in starts:
            width = 0.5 * abs(starts[each]) or 0.5
            typical = (starts[each] - width, starts[each] + width)
        parameters.append(Parameter(each, domain=domain, typical=typical))
    return Law(name, formula, tuple(Variable(each, "") for each in variables), tuple(parameters), source="given")
