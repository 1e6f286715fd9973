"""Solver coordinates: each parameter mapped to the whole line, so that domains need no constraints."""

from dataclasses import dataclass

import numpy as np

from fits.laws.law import Domain


@dataclass(frozen=True)
class Coordinates:
    """u = log p for positive parameters, p itself for real ones, the logit of its place for those between bounds.

    ``logarithmic`` marks the parameters of which the model takes the logarithm (see ``Model.logarithmic``).
    """

    domains: tuple[Domain, ...]
    logarithmic: np.ndarray

    @property
    def of_parameters(self) -> "Coordinates":
        """The same coordinates for a model that takes every parameter as it is."""
        return Coordinates(self.domains, np.zeros(len(self.domains), dtype=bool))

    def parameters(self, u: np.ndarray) -> np.ndarray:
        """The law's parameters at solver coordinates [..., p]."""
        result = np.array(u, dtype=float)
        for index, domain in enumerate(self.domains):
            column = result[..., index]
            if domain == "positive":
                with np.errstate(over="ignore"):
                    result[..., index] = np.exp(column)
            elif isinstance(domain, tuple):
                result[..., index] = domain[0] + (domain[1] - domain[0]) * _logistic(column)
        return result

    def solver(self, parameters: np.ndarray) -> np.ndarray:
        """The solver coordinates of parameters [..., p]."""
        result = np.array(parameters, dtype=float)
        for index, domain in enumerate(self.domains):
            column = result[..., index]
            if domain == "positive":
                result[..., index] = np.log(np.maximum(column, 1e-300))
            elif isinstance(domain, tuple):
                place = np.clip((column - domain[0]) / (domain[1] - domain[0]), 1e-9, 1 - 1e-9)
                result[..., index] = np.log(place) - np.log1p(-place)
        return result

    def natural(self, u: np.ndarray) -> np.ndarray:
        """What the model takes."""
        return np.where(self.logarithmic, u, self.parameters(u))

    def slopes(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivatives of the natural parameters by u."""
        slope, bend = np.ones_like(u), np.zeros_like(u)
        for index, domain in enumerate(self.domains):
            if self.logarithmic[index] or domain == "real":
                continue
            if domain == "positive":
                slope[..., index] = bend[..., index] = np.exp(u[..., index])
            else:
                place = _logistic(u[..., index])
                slope[..., index] = (domain[1] - domain[0]) * place * (1 - place)
                bend[..., index] = slope[..., index] * (1 - 2 * place)
        return slope, bend


def _logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
