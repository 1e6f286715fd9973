"""A table of runs in, a fitted scaling law with honest intervals out. Knows NumPy, SciPy and pandas; no torch.

The public names are listed in docs/api.md and loaded on first use.
"""

from fits.exports import lazy

__all__, __getattr__, __dir__ = lazy(__name__, __file__)
