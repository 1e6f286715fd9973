"""A table of runs in, a fitted scaling law with honest intervals out. Knows NumPy, SciPy and pandas; no torch.

Names load on first use, so that ``import fits`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fits.coefficients import Published, list_published, published
    from fits.fitting import fit
    from fits.law import Law, Parameter, Variable, custom_law
    from fits.laws import get_law, list_laws
    from fits.result import Fit
    from fits.runs import read_runs, usable_runs, write_runs

__all__ = [
    "Fit",
    "Law",
    "Parameter",
    "Published",
    "Variable",
    "custom_law",
    "fit",
    "get_law",
    "list_laws",
    "list_published",
    "published",
    "read_runs",
    "usable_runs",
    "write_runs",
]

_HOMES = {
    "Fit": "fits.result",
    "Law": "fits.law",
    "Parameter": "fits.law",
    "Published": "fits.coefficients",
    "Variable": "fits.law",
    "custom_law": "fits.law",
    "fit": "fits.fitting",
    "get_law": "fits.laws",
    "list_laws": "fits.laws",
    "list_published": "fits.coefficients",
    "published": "fits.coefficients",
    "read_runs": "fits.runs",
    "usable_runs": "fits.runs",
    "write_runs": "fits.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fits' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
