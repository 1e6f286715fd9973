"""From a budget and a law to a training plan, its configs and its report; and the command line.

The public names are listed in docs/api.md and loaded on first use.
"""

from fits.exports import lazy

__all__, __getattr__, __dir__ = lazy(__name__, __file__)
