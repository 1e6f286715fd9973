"""An architecture, a small training run of it, and sweeps of such runs.

The public names are listed in docs/api.md and loaded on first use.
"""

from fits.exports import lazy

__all__, __getattr__, __dir__ = lazy(__name__, __file__)
