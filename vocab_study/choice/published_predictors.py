"""The best vocabulary size by the runs of Tao et al. (arXiv 2407.13623): as printed, corrected, and read directly."""

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from fits import published
from fits.decisions.optimal_vocabulary import optimal_vocabulary
from fits.errors import UserError
from vocab_study.choice.isoflop import VocabularyLaw
from vocab_study.choice.refits import Interval, fitted_to_all, interval_of


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
    interval: Interval
    """By refits to resampled curves of the same runs, so it need not be about the printed answer."""
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
    """The three published approaches, the third also corrected, and the same runs read directly in two metrics.

    Each counts one vocabulary matrix, ``vocab_size x hidden_size``.

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
    budget = flops or compute_optimal_flops(params)
    beyond = published("tao-loss").decades_outside("N", params / 1e6) or 0.0
    far = (f"N = {params:.3g} is {beyond:.1f} decades beyond the fitted range.",) * (beyond > 0)

    def answer(name: str, title: str, source: str, size: float, notes: tuple[str, ...] = ()) -> Predicted:
        spent = budget if name.startswith("tao-loss") else None
        found = interval_of(name, params, hidden_size, budget)
        return Predicted(name, title, source, params, spent, round(size), found, tuple(filter(None, notes + far)))

    answers = []
    for name in ("tao-isoflop", "tao-derivative"):
        law = published(name)
        answers.append(answer(name, law.record.title, law.source, law.evaluate(N=params, d=hidden_size).value))
    for name in ("tao-loss", "tao-loss-corrected"):
        law = published(name)
        size = optimal_vocabulary(law, params, hidden_size, budget)
        answers.append(answer(name, law.record.title, law.source, size, (law.record.notes,)))
    for name, title in (
        ("tao-direct", "Vocabulary, the same runs: parabola of L_u in ln V"),
        ("tao-direct-bits", "Vocabulary, the same runs in bits per character"),
    ):
        law = VocabularyLaw(**fitted_to_all(name))
        source = "benchmarks/vocabulary/tao_intervals.py, on the runs of arXiv 2407.13623"
        answers.append(answer(name, title, source, law.vocab_size(params, hidden_size)))
    return answers
