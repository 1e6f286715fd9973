"""A design as a file: blocks of runs in relative units, named and documented. No torch here."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from fits.errors import UserError, nearest
from fits.schema import Count, Schema
from trainer_small.ladder import Experts

_FOLDER = Path(__file__).parent


class Block(Schema):
    """Runs that answer one question: every combination of what is listed."""

    purpose: str
    rungs: tuple[Count, ...] | None = None
    """Positions in the design's ``hidden_sizes``, from 0; all of them when left out."""
    horizons: tuple[PositiveFloat, ...] = ()
    """Tokens of the runs, relative to each other."""
    budgets: tuple[PositiveFloat, ...] = ()
    """Instead of horizons: FLOPs of the runs, in units of horizon 1 on the first rung (IsoFLOP slices)."""
    equal_flops: bool = False
    """A horizon stands for the FLOPs that it costs with the design's base routing and vocabulary."""
    experts: tuple[Experts, ...] = ()
    """Routings; the design's base when left out. ``num_experts: 0`` is a dense model."""
    vocab_sizes: Literal["base", "all", "others"] = "base"
    """The vocabulary of the grid, every one that has a tokenizer, or all but the grid's."""
    learning_rates: tuple[PositiveFloat, ...] = (1.0,)
    """Factors on the recipe's."""
    batches: tuple[PositiveFloat, ...] = (1.0,)
    """Factors on the recipe's ``batch_tokens``."""
    seeds: tuple[Count, ...] = (0,)
    trunk: bool = False
    """Train the longest horizon once and branch the decays of the shorter ones from it (arXiv 2405.18392)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.horizons) == bool(self.budgets):
            raise ValueError(f"block '{self.purpose}' must have either horizons or budgets")
        if self.trunk and (self.budgets or self.equal_flops):
            raise ValueError(f"block '{self.purpose}': a trunk's branches are horizons in tokens; give those alone")
        return self


class Design(Schema):
    """A named grid; ``scaling sweep design --law NAME`` or ``--law FILE.yaml``."""

    schema_version: Literal[1] = 1
    name: str
    purpose: str
    source: str
    """Where the grid comes from, and what was changed."""
    fits: str
    """The law of ``scaling laws list`` that its runs identify."""
    hidden_sizes: tuple[Count, ...]
    """Widths of the ladder, smallest first; depth, heads and expert width follow from each."""
    base: Experts
    """The routing where nothing else is said."""
    blocks: tuple[Block, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.hidden_sizes or list(self.hidden_sizes) != sorted(set(self.hidden_sizes)):
            raise ValueError(f"hidden_sizes {list(self.hidden_sizes)} must rise, with at least one width")
        for block in self.blocks:
            for rung in block.rungs or ():
                if not 0 <= rung < len(self.hidden_sizes):
                    raise ValueError(
                        f"block '{block.purpose}' has rung {rung}; there are {len(self.hidden_sizes)} widths, from 0"
                    )
        return self


def design_names() -> list[str]:
    """Designs that come with the program."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_design(name: str | Path) -> Design:
    """A design by its name, or from a file of one's own.

    Raises:
        UserError: there is no such design, or the file is wrong.
    """
    if str(name).endswith((".yaml", ".yml", ".json")):
        return Design.load(name)
    if name not in design_names():
        known = ", ".join(design_names())
        raise UserError(f"unknown design '{name}'{nearest(str(name), design_names())}; choose {known} or a .yaml file.")
    return Design.load(_FOLDER / f"{name}.yaml")
