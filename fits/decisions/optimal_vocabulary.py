"""The vocabulary size that a loss law with a vocabulary term calls best (arXiv 2407.13623, approach 3)."""

import numpy as np
from scipy.optimize import brentq

from fits.errors import UserError
from fits.laws.coefficients import Published
from fits.laws.derivatives import differentiate

_UNITS = {"N": 1e6, "V": 1e3, "d": 1e3, "D": 1e9}


def optimal_vocabulary(published: Published, params: float, hidden_size: float, flops: float) -> float:
    """The vocabulary of least loss at fixed compute, where F = 6 (N + V d) D.

    Args:
        published: a set of the law ``tao-loss``, in its units (millions, thousands, billions).
        params: parameters outside the vocabulary.
        hidden_size: d.
        flops: training FLOPs, output layer in.

    Raises:
        UserError: the set is of another law, or the loss has no minimum between 2**6 and 2**26 tokens.
    """
    if published.law.name != "tao-loss":
        raise UserError(
            f"'{published.name}' is a set of '{published.law.name}'; the vocabulary optimum needs 'tao-loss'."
        )

    def slope(log_v: float) -> float:
        """dL/d log V at fixed compute."""
        size = np.exp(log_v)
        tokens = flops / (6 * (params + size * hidden_size))
        values = {
            **published.record.coefficients,
            "N": params / _UNITS["N"],
            "V": np.float64(size / _UNITS["V"]),
            "d": hidden_size / _UNITS["d"],
            "D": np.float64(tokens / _UNITS["D"]),
        }
        first = differentiate(published.law.expression, values, ["V", "D"]).first
        tokens_slope = -tokens * size * hidden_size / (params + size * hidden_size)
        return float(first[0] * size / _UNITS["V"] + first[1] * tokens_slope / _UNITS["D"])

    low, high = 6 * np.log(2), 26 * np.log(2)
    if not slope(low) < 0 < slope(high):
        raise UserError(f"'{published.name}' has no best vocabulary between 64 and 67M tokens at N = {params:g}.")
    log_v = float(brentq(slope, low, high, xtol=1e-12))  # type: ignore[arg-type]
    return float(np.exp(log_v))
