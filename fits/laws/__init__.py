"""Scaling laws, one file a family: formulas with exact derivatives, and the published coefficients."""

from fits.errors import UserError, nearest
from fits.laws.dense import DENSE
from fits.laws.hyperparameters import HYPERPARAMETERS
from fits.laws.law import Law
from fits.laws.moe import MOE
from fits.laws.vocabulary import VOCABULARY

_LAWS = {law.name: law for law in (*DENSE, *MOE, *HYPERPARAMETERS, *VOCABULARY)}


def list_laws() -> list[Law]:
    """Every law, by family."""
    return list(_LAWS.values())


def get_law(name: str) -> Law:
    """The law of that name.

    Raises:
        UserError: there is none.
    """
    if name not in _LAWS:
        raise UserError(f"There is no law '{name}'{nearest(name, _LAWS)}; `scaling laws list` shows them all.")
    return _LAWS[name]
