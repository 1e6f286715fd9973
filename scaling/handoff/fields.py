"""What a stack's file calls the keys of a run: one table that its writer walks, and its reader walks back."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from fits.errors import UserError
from scaling.cluster.run import Run, shown_name
from scaling.plan import Layout, TrainingPlan


class Values:
    """Reads a file's ``values`` with errors that name them; ``word`` is what it calls its names (flag, constant)."""

    def __init__(self, values: Mapping[str, Any], path: str | Path, word: str) -> None:
        self.values, self.path, self.word = values, path, word

    def get(self, name: str, default: Any = None) -> Any:
        """The value; absent, null and false are the default."""
        value = self.values.get(name)
        return default if value is None or value is False else value

    def yes(self, name: str, default: Any = None) -> bool:
        """Whether there is a value that counts as true."""
        return bool(self.get(name, default))

    def given(self, name: str, default: Any = None) -> bool:
        """Whether there is a value, a zero too."""
        return self.get(name, default) is not None

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            UserError: it is missing without a default, or no number.
        """
        value = self.get(name, default)
        if value is None:
            raise UserError(f"{self.path}: {self.word} '{name}' is missing; add it.")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{self.path}: {self.word} '{name}' is {value!r}: must be a number.")
        return number

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number of at least ``least``.

        Raises:
            UserError: it is missing without a default, or no such number.
        """
        value = self.number(name, default)
        if value != int(value) or value < least:
            raise UserError(
                f"{self.path}: {self.word} '{name}' is {value:g}: must be a whole number of at least {least}."
            )
        return int(value)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        return self.whole(name, default, least=1)


@dataclass(frozen=True)
class Field:
    """One name of a stack's file, and what of the run it holds."""

    name: str
    key: str = ""
    """As ``layout.tensor``; empty when nothing, or several keys, stand behind the name: then the reader has code."""
    read: Callable[..., Any] = Values.whole
    default: Any = None
    """The stack's own, where a file may leave the name out."""
    write: Callable[[Run], Any] | None = None
    """The value for the file, where it is not the key's."""


def fixed(name: str, value: Any) -> Field:
    """What is the same for every run."""
    return Field(name, write=lambda run: value)


def layout_of(run: Run) -> Layout:
    """The layout, or that of a single GPU."""
    return run.layout or Layout(gpus=1)


def written(fields: Iterable[Field], run: Run) -> dict[str, Any]:
    """Name -> value for the file."""
    run = replace(run, layout=layout_of(run))
    return {field.name: field.write(run) if field.write else attrgetter(field.key)(run) for field in fields}


def read_back(fields: Iterable[Field], file: Values, part: str = "", *, place: str = "") -> dict[str, Any]:
    """Key -> value, of the keys in one ``part`` of the run (model, layout, or its own); names stand below ``place``."""
    found: dict[str, Any] = {}
    for field in fields:
        owner, _, key = field.key.rpartition(".")
        if key and owner == part:
            found[key] = field.read(file, place + field.name, field.default)
    return found


def shared_experts(width: int, expert_width: int) -> dict[str, int]:
    """Keys of shared experts of which only the total width is known: in experts where that divides."""
    count = width // expert_width if width and expert_width and width % expert_width == 0 else int(width > 0)
    return {"num_shared_experts": count, "shared_expert_ffn_size": width // count if count else 0}


def dense_layers(layers: Sequence[int]) -> dict[str, Any]:
    """Keys of the layers without experts: those that lead, and the others."""
    leading = next((index for index, layer in enumerate(layers) if layer != index), len(layers))
    return {"num_dense_layers": leading, "other_dense_layers": tuple(layers[leading:])}


def refuse(run: Run, stack: str, cases: Iterable[tuple[str, bool, str]]) -> None:
    """Stop at the first key that the stack cannot be given: (key, whether that is so, why).

    Raises:
        UserError: names the key, its value and the reason.
    """
    for key, wrong, why in cases:
        if wrong:
            shown = key if " " in key else f"{key} {attrgetter(key)(run)!r}"  # with a blank it says its value itself
            raise UserError(f"{shown} cannot be given to {stack}: {why}; change the plan.")


def heading(plan: TrainingPlan, target: str, use: Sequence[str], omissions: Iterable[str]) -> str:
    """Comment lines above a stack's file: what it is, how it is used, and what of the plan it does not say."""
    lines = [
        f"Training plan '{shown_name(plan)}' for {target}.",
        f"Parameters: {plan.model.params_total:,} in all, {plan.model.params_active:,} active.",
        *use,
        *(f"Note: {text}" for text in omissions),
    ]
    return "".join(f"# {line}\n" for line in lines)
