"""The best vocabulary size by the published laws (Tao et al. 2024, arXiv 2407.13623), coefficients as printed."""

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from fits import published
from fits.errors import UserError
from fits.vocabulary import optimal_vocabulary


@dataclass(frozen=True)
class Predicted:
    """One law's answer."""

    law: str
    title: str
    source: str
    params: float
    """Parameters outside the vocabulary that the law was asked for."""
    flops: float | None
    """Training FLOPs, where the law takes them."""
    vocab_size: int
    warnings: tuple[str, ...]


def compute_optimal_flops(params: float) -> float:
    """Training FLOPs at which ``params`` outside the vocabulary are the best size: (params / exp(K1))**2.

    The reading of approach 1 that the published code takes when no budget is given.
    """
    return (params / math.exp(published("tao-isoflop").record.coefficients["K1"])) ** 2


def without_vocabulary(params_active: float, hidden_size: int, *, tied_embeddings: bool = False) -> float:
    """Parameters outside the vocabulary, where ``params_active`` counts the matrices of the size that approach 2 gives.

    Raises:
        UserError: ``params_active`` is not above 0.
    """
    matrices = 1 if tied_embeddings else 2
    law = published("tao-derivative")

    def excess(params: float) -> float:
        return params + matrices * law.evaluate(N=params, d=hidden_size).value * hidden_size - params_active

    if not (params_active > 0 and math.isfinite(params_active)):
        raise UserError(f"params_active is {params_active}; it must be above 0.")
    return float(brentq(excess, 1e-9 * params_active, params_active, xtol=0.5))  # type: ignore[arg-type]


def predict(params: float, hidden_size: int, flops: float | None = None) -> list[Predicted]:
    """The three published approaches; each counts one vocabulary matrix, ``vocab_size x hidden_size``.

    Args:
        params: parameters outside the vocabulary. For a mixture of experts the laws leave open which: the active ones
            pay for a token, more of them learn from it.
        hidden_size: width of the model.
        flops: training FLOPs, 6 (params + vocab_size x hidden_size) tokens; ``None`` takes the compute-optimal
            budget. Only approach 3 looks at it.

    Raises:
        UserError: a number that is not above 0.
    """
    for name, value in (("params", params), ("hidden_size", hidden_size), ("flops", flops)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value}; it must be above 0.")
    answers = []
    for name in ("tao-isoflop", "tao-derivative"):
        law = published(name)
        answer = law.evaluate(N=params, d=hidden_size)
        size = int(int(answer.value * hidden_size) / hidden_size)  # whole parameters, then whole tokens, as printed
        answers.append(Predicted(name, law.record.title, law.source, params, None, size, tuple(answer.warnings)))
    law = published("tao-loss")
    budget = flops or compute_optimal_flops(params)
    size = int(optimal_vocabulary(law, params, hidden_size, budget))
    beyond = law.decades_outside("N", params / 1e6) or 0.0
    warnings = [law.record.notes] + (
        [f"N = {params:.3g} is {beyond:.1f} decades beyond the fitted range."] * (beyond > 0)
    )
    answers.append(Predicted("tao-loss", law.record.title, law.source, params, budget, size, tuple(warnings)))
    return answers
