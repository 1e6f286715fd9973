"""From a corpus: tokenizers of every size, and how loss and cost depend on the vocabulary size.

The public names are listed in docs/api.md and loaded on first use.
"""

from fits.exports import lazy

__all__, __getattr__, __dir__ = lazy(__name__, __file__)
