"""The promise of a plan: its loss with an interval, and the curve to check the big run against."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fits.errors import UserError
from scaling.plan import LossPoint, Prediction
from scaling.planner.published_loss_models import loss_model_names, published_loss_model
from scaling.planner.search import Search, held_by


def prediction_of(found: Search, tokens: int, level: float) -> Prediction:
    """The loss of the chosen shape at ``tokens`` and at earlier ends, by a fit with its draws or by published laws."""
    horizons = np.unique(np.geomspace(max(tokens / 100, 1), tokens, 13).astype(int))
    if found.loss_model.fit:
        return _by_fit(found, horizons, level)
    return _by_published(found, horizons)


def _by_fit(found: Search, horizons: np.ndarray, level: float) -> Prediction:
    loss_model, fit, shape = found.loss_model, found.loss_model.fit, found.shape
    assert fit is not None
    variables = loss_model.variables(shape, horizons.astype(float), found.text)
    values = fit.predict(**variables)
    low, high = fit.band(level, new_run=False, **variables)
    modes = _modes(fit.predict_draws(**variables) - values)
    points = zip(horizons, values, low, high, modes, strict=True)
    curve = tuple(
        LossPoint(tokens=int(count), value=float(value), low=float(lower), high=float(upper), modes=tuple(mode))
        for count, value, lower, upper, mode in points
    )
    end = curve[-1]
    relative = fit.objective.name.startswith("log-")
    return Prediction(
        quantity="bits_per_byte" if loss_model.quantity == "bits_per_byte" else "loss",
        unit=fit.unit,
        value=end.value,
        low=end.low,
        high=end.high,
        interval=f"{level:.0%} bootstrap interval of the law's mean at the plan; it holds only if the law's form does",
        law=fit.law,
        source=loss_model.source,
        curve=curve,
        run_sd=fit.residual_scale * (end.value if relative else 1.0),
    )


def _by_published(found: Search, horizons: np.ndarray) -> Prediction:
    """The law's loss, between what every law that was fitted to such shapes says; corpora differ, so no interval."""
    tokens = horizons.astype(float)
    others = dict(_opinions(found, tokens))
    values = np.asarray(found.loss_model.loss(found.shape, tokens, found.text))
    together = np.array([values, *others.values()])
    low, high = together.min(axis=0), together.max(axis=0)
    curve = tuple(
        LossPoint(tokens=int(count), value=float(value), low=float(lower), high=float(upper))
        for count, value, lower, upper in zip(horizons, values, low, high, strict=True)
    )
    listed = ", ".join(f"{name} {loss[-1]:.3f}" for name, loss in others.items())
    return Prediction(
        quantity="loss",
        unit=found.loss_model.unit,
        value=curve[-1].value,
        low=curve[-1].low,
        high=curve[-1].high,
        interval=f"not an interval but the spread of published laws at this shape and data: {listed}; corpora differ",
        law=found.loss_model.name,
        source=found.loss_model.source,
        curve=curve,
    )


def _opinions(found: Search, tokens: np.ndarray) -> Iterator[tuple[str, Any]]:
    for name in loss_model_names():
        other = published_loss_model(name)
        same_unit = ("unigram" in other.unit) == ("unigram" in found.loss_model.unit)
        if name == found.loss_model.name or not same_unit or (other.holds and not held_by(other, found.shape)):
            continue
        try:
            loss = np.asarray(other.loss(found.shape, tokens, found.text))
        except UserError:
            continue
        if np.isfinite(loss).all():
            yield name, loss


def _modes(errors: np.ndarray, number: int = 3) -> list[list[float]]:
    """The largest principal components of drawn errors [B, P] about the fitted curve: ``number`` values a point.

    A few wild draws of the bootstrap must not set the direction, so each point's tails are clipped at 0.5 %.
    """
    errors = errors[np.isfinite(errors).all(axis=1)]
    errors = np.clip(errors, *np.quantile(errors, [0.005, 0.995], axis=0))
    _, sizes, directions = np.linalg.svd(errors, full_matrices=False)
    modes = (sizes[:, None] * directions / np.sqrt(len(errors)))[:number]
    return [[float(f"{value:.6g}") for value in point] for point in modes.T]
