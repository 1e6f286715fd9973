"""A law that can price a shape: its variables taken from the shape's counts, its draws when it was fitted here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fits import Fit
from fits.errors import UserError
from fits.laws.coefficients import published
from fits.laws.expression import Name, evaluate, names, parse, substitute, written
from fits.laws.law import Law
from fits.tables.loss_units import UNITS

BytesPerToken = Callable[[int], float]
"""UTF-8 bytes of training text per token at a vocabulary size."""

_DATA = {"tokens", "tokens_seen", "train_bytes", "train_flops"}
_SIZE = {
    "params_total",
    "params_total_non_embedding",
    "params_active",
    "params_active_non_embedding",
    "hidden_size",
} | {
    *("num_layers", "expert_ffn_size", "dense_ffn_size", "flops_per_token"),
}


@dataclass(frozen=True)
class Text:
    """The training text behind a token count: how much of it is new, and how long a token is."""

    sequence_length: int
    unique_tokens: float | None = None
    bytes_per_token: BytesPerToken | None = None

    def effective(self, tokens: Any) -> Any:
        """Fresh tokens that these are worth: U + U R (1 - exp(-(D/U - 1)/R)) beyond U (arXiv 2305.16264, eq. 5)."""
        if self.unique_tokens is None:
            return tokens
        unique, scale = self.unique_tokens, published("muennighoff").record.coefficients["R_D"]
        repeats = np.maximum(tokens / unique - 1.0, 0.0)
        return np.where(tokens > unique, unique * (1.0 + scale * -np.expm1(-repeats / scale)), tokens)

    def bytes_of(self, vocab_size: Any) -> Any:
        """Bytes a token, for one vocabulary size or a column of them."""
        if self.bytes_per_token is None:
            raise UserError(
                "the law counts data in bytes; give the vocabulary study with --vocab-study, or --bytes-per-token."
            )
        sizes, where = np.unique(np.asarray(vocab_size), return_inverse=True)
        rates = np.array([self.bytes_per_token(int(size)) for size in sizes])
        return rates[where].reshape(np.shape(vocab_size))


@dataclass(frozen=True)
class LossModel:
    """A law with coefficients ``[1 + draws, parameters]`` (the first row is the best) and what its variables are.

    ``of`` is an ``Architecture`` or a ``ShapeTable`` everywhere below; ``tokens`` is a number or an array that goes
    with it.
    """

    name: str
    law: Law
    coefficients: np.ndarray
    bind: Mapping[str, str]
    quantity: str
    unit: str
    source: str
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value of a variable (or train_flops) behind the law."""
    holds: str = ""
    """The shapes that the law was fitted to, as a condition on columns; empty when it sees what varies."""
    note: str = ""
    fit: Fit | None = None

    @cached_property
    def sees(self) -> frozenset[str]:
        """The columns that the law is bound to."""
        seen = {column for text in self.bind.values() for column in names(parse(text))}
        if "tian_leverage" in seen:
            seen |= {"activation_ratio", "granularity"}
        return frozenset(seen)

    @property
    def sees_experts(self) -> bool:
        """Whether the loss depends on the number of experts other than through the active parameters."""
        seen = {"activation_ratio", "num_experts", "params_total", "params_total_non_embedding"}
        return bool(self.sees & seen)

    @property
    def knows_its_reach(self) -> bool:
        """Whether the range of compute, size or data behind the law is known."""
        return bool({"train_flops", "N", "D", "H"} & set(self.ranges))

    @property
    def number_of_draws(self) -> int:
        return len(self.coefficients) - 1

    def variables(self, of: Any, tokens: Any, text: Text) -> dict[str, Any]:
        """The law's variables for runs of these shapes and tokens.

        Raises:
            UserError: the law counts bytes of text, and it is not known how many a token is.
        """
        columns = {column: self._column(column, of, tokens, text) for column in self.sees}
        return {name: evaluate(parse(expression), columns) for name, expression in self.bind.items()}

    def loss(self, of: Any, tokens: Any, text: Text) -> Any:
        """The loss by the best coefficients; infinite where the law has none."""
        best = dict(zip(self.law.parameter_names, self.coefficients[0], strict=True))
        with np.errstate(all="ignore"):
            value = np.asarray(self.law.evaluate(best, self.variables(of, tokens, text)))
        return np.where(np.isfinite(value), value, np.inf)

    def draws(self, of: Any, tokens: Any, text: Text) -> np.ndarray:
        """The loss by every draw, [B, n]; ``tokens`` is [n] or [B, n]."""
        columns = {name: self.coefficients[1:, [index]] for index, name in enumerate(self.law.parameter_names)}
        with np.errstate(all="ignore"):
            value = np.asarray(self.law.evaluate(columns, self.variables(of, tokens, text)))
        return np.where(np.isfinite(value), value, np.inf)

    def decades(self, of: Any, tokens: float, text: Text) -> dict[str, float]:
        """Decades by which one run lies outside what is behind the law, of each variable and of its training FLOPs."""
        asked = {name: float(value) for name, value in self.variables(of, float(tokens), text).items()}
        asked["train_flops"] = float(of.flops_per_token(text.sequence_length) * tokens)
        outside = {}
        for name, value in asked.items():
            if name in self.ranges and value > 0:
                low, high = self.ranges[name]
                beyond = np.log10(value / high) if value > high > 0 else np.log10(value / low) if value < low else 0.0
                outside[name] = round(float(beyond), 3)
        return outside

    def _column(self, name: str, of: Any, tokens: Any, text: Text) -> Any:
        tokens = np.asarray(tokens, dtype=float)
        match name:
            case "tokens":
                return text.effective(tokens)
            case "tokens_seen":
                return tokens
            case "unique_tokens":
                return tokens if text.unique_tokens is None else np.minimum(tokens, text.unique_tokens)
            case "train_bytes":
                return text.effective(tokens) * text.bytes_of(of.vocab_size)
            case "train_flops":
                return of.flops_per_token(text.sequence_length) * tokens
            case "flops_per_token":
                return 1.0 * of.flops_per_token(text.sequence_length)
            case "sequence_length":
                return float(text.sequence_length)
            case "flops_per_token_without_head":
                return 1.0 * _without_head(of, text.sequence_length)
            case "tian_leverage":
                spent = _without_head(of, text.sequence_length) * tokens
                law = published("tian-leverage")
                shape = {"A": of.activation_ratio, "G": of.granularity}
                return law.law.evaluate(law.record.coefficients, {**shape, "C": spent})
        return np.asarray(getattr(of, name), dtype=float)


def fitted_loss_model(fit: Fit) -> LossModel:
    """A law fitted here, with its draws.

    Raises:
        UserError: one of its variables means nothing that a plan knows.
    """
    for each in fit.variables:
        if each.means is None:
            raise UserError(
                f"law '{fit.law}': what {each.name} (bound to {each.bound_to}) counts is not known to a plan; fit "
                f"again with --means {each.name}=COLUMN (COLUMN/1e9 for billions), or choose a law without it."
            )
    best = np.array([list(fit.values.values())])
    return LossModel(
        name=fit.law,
        law=fit.as_law,
        coefficients=np.concatenate([best, fit.draws]) if len(fit.draws) else best,
        bind=_discounting(fit.means),
        quantity="bits_per_byte" if fit.unit == UNITS["bits_per_byte"] else "loss",
        unit=fit.unit,
        source=f"fitted to {fit.n_runs} runs: {fit.formula}",
        ranges={name: span for name, span in fit.ranges.items() if name != "loss"},
        fit=fit,
    )


def _without_head(of: Any, sequence_length: int) -> Any:
    """Training FLOPs of a token by Tian et al.'s M: the output head left out."""
    return of.flops_per_token(sequence_length) - 6 * of.vocab_size * of.hidden_size


def require_choice(loss_model: LossModel) -> None:
    """
    Raises:
        UserError: a fitted law predicts no loss, has no draws for intervals, or does not see both the size of a model
            and its data, so that it cannot choose between them.
    """
    fit = loss_model.fit
    if fit is None:
        return
    if loss_model.number_of_draws < 2:
        raise UserError(
            f"law '{fit.law}' was fitted without a bootstrap, and a plan needs its intervals; fit again with "
            "--bootstrap 1000."
        )
    if fit.unit not in UNITS.values():
        raise UserError(
            f"law '{fit.law}' predicts {fit.response} ({fit.unit}) and no loss, so it cannot choose a plan."
        )
    for what, columns in (("the size of a model", _SIZE), ("its data", _DATA)):
        if not loss_model.sees & columns:
            seen = ", ".join(sorted(loss_model.sees))
            raise UserError(
                f"law '{fit.law}' sees {seen} and not {what}, so it cannot choose between size and data; fit one that "
                "sees both, such as hoffmann or moe-power."
            )


def _discounting(means: Mapping[str, str]) -> dict[str, str]:
    """A law that takes the unique tokens discounts repeats itself, so its tokens are those seen."""
    if not any("unique_tokens" in names(parse(text)) for text in means.values()):
        return dict(means)
    seen = {"tokens": Name("tokens_seen")}
    return {name: written(substitute(parse(text), seen)) for name, text in means.items()}


def law_variables(fit: Fit, shape: Any, tokens: Any, bytes_per_token: BytesPerToken | None) -> dict[str, np.ndarray]:
    """The variables of a fitted law for runs of one shape, by what they mean.

    Raises:
        UserError: the law needs what a plan cannot give.
    """
    tokens, loss_model = np.asarray(tokens, dtype=float), fitted_loss_model(fit)
    if "train_flops" in loss_model.sees:
        raise UserError(f"law '{fit.law}' takes training FLOPs, so it says nothing of one shape; fit N and D apart.")
    found = loss_model.variables(shape, tokens, Text(1, None, bytes_per_token))
    return {name: np.broadcast_to(value, tokens.shape) for name, value in found.items()}
