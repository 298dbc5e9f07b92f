"""Laws that are sums of powers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.scaling.law import Law, log_means
from workbench.scaling.starts import grid_starts

# Logarithms of covariates (points, covariates) from a frame.
Covariates = Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Term:
    """exp(log coefficient + Σ sign·exponent·log covariate), one summand of a law.

    ``slopes`` are (exponent's name, column of the covariates, sign).
    """

    coefficient: str
    slopes: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True)
class SumLaw(Law):
    """L = Σⱼ exp(tⱼ), every tⱼ linear in θ but for products of an exponent with a logarithm.

    So log L and its derivatives are one log-sum-exp, as Hoffmann et al. 2022 (arXiv 2203.15556)
    write theirs. ``E``, if there is one, is the floor.
    """

    name: str
    terms: tuple[Term, ...]
    exponents: tuple[str, ...]
    columns: tuple[str, ...]
    logarithms: Covariates
    formula: str
    may_be_zero: tuple[str, ...] = ()
    largest_exponent: float = 2.0  # where starts end; beyond it a term is a step at one point

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The terms' coefficients first, exponents after."""
        return (*(term.coefficient for term in self.terms), *self.exponents)

    @property
    def floor(self) -> str | None:  # type: ignore[override]
        """The name of the term that no covariate lowers."""
        return next((term.coefficient for term in self.terms if not term.slopes), None)

    @property
    def width(self) -> int:  # type: ignore[override]
        """How many covariates there are."""
        return 1 + max(column for term in self.terms for _, column, _ in term.slopes)

    def covariates(self, frame: pd.DataFrame) -> np.ndarray:
        """(points, covariates) logarithms."""
        return self.logarithms(frame)

    def centre(self, x: np.ndarray) -> np.ndarray:
        """The mean logarithms; values that stand for 0 do not count."""
        return log_means(x)

    def uncentred(self, theta: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Coefficients take up what centring took off."""
        shifted = np.array(theta, copy=True)
        for j, term in enumerate(self.terms):
            for exponent, column, sign in term.slopes:
                k = self.parameters.index(exponent)
                shifted[..., j] -= sign * np.exp(theta[..., k]) * means[column]
        return shifted

    def starts(self, x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
        """The best cells of a grid of exponents."""
        return grid_starts(self.basis, len(self.exponents), self.largest_exponent, x, log_loss)

    def log_terms(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """tⱼ of every point, (problems, points, terms).

        Args:
            theta: (problems, parameters), logarithms of `parameters`.
            x: (points, covariates) or (problems, points, covariates).
        """
        t = np.repeat(theta[:, None, : len(self.terms)], x.shape[-2], axis=1)
        for j, term in enumerate(self.terms):
            for exponent, column, sign in term.slopes:
                value = np.exp(theta[:, self.parameters.index(exponent)])
                t[:, :, j] += sign * value[:, None] * x[..., column]
        return t

    def log_loss(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Log L of every point, (problems, points); arguments as in `log_terms`."""
        return np.logaddexp.reduce(self.log_terms(theta, x), axis=-1)

    def log_loss_and_slopes(
        self, theta: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log L (problems, points) and its derivatives (problems, points, parameters)."""
        t = self.log_terms(theta, x)
        log_loss = np.logaddexp.reduce(t, axis=-1)
        shares = np.exp(t - log_loss[..., None])
        slopes = np.zeros((*log_loss.shape, len(self.parameters)))
        slopes[..., : len(self.terms)] = shares
        for j, term in enumerate(self.terms):
            for exponent, column, sign in term.slopes:
                k = self.parameters.index(exponent)
                value = np.exp(theta[:, k])[:, None]
                slopes[..., k] += shares[..., j] * sign * value * x[..., column]
        return log_loss, slopes

    def basis(self, exponents: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What each coefficient multiplies, (grid, points, terms), of ``exponents`` (grid, …)."""
        theta = np.zeros((len(exponents), len(self.parameters)))
        theta[:, len(self.terms) :] = np.log(exponents)
        return np.exp(self.log_terms(theta, x))
