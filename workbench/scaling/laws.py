"""The laws: how loss falls with parameters, tokens or compute, as sums of positive terms.

Each law is L = Σⱼ exp(tⱼ), and every tⱼ is linear in the parameters below but for products of an
exponent with a logarithm, so that log L and its derivatives are one log-sum-exp (as Hoffmann et al.
2022, arXiv 2203.15556, write theirs). Parameters are kept as logarithms: coefficients and exponents
stay positive, and a floor that is not there runs towards 0.

Losses are nats a token; parameters and tokens are counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.errors import InputError

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
class Law:
    """A sum of terms over logarithms of covariates.

    Attributes:
        name: what `fit` calls it.
        terms: the summands; ``E``, if there is one, is the floor.
        exponents: the names that enter as exponents, in the order of parameters.
        columns: what a frame has to have beside ``loss``.
        covariates: (points, covariates) logarithms, of a frame with these columns.
        formula: the law in words of mathematics, for captions and messages.
        largest_exponent: where starts end; beyond it a term is a step at the smallest point.
    """

    name: str
    terms: tuple[Term, ...]
    exponents: tuple[str, ...]
    columns: tuple[str, ...]
    covariates: Covariates
    formula: str
    largest_exponent: float = 2.0

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The names of the terms' coefficients, in the order of terms."""
        return tuple(term.coefficient for term in self.terms)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Coefficients first, exponents after."""
        return (*self.coefficients, *self.exponents)

    @property
    def floor(self) -> str | None:
        """The name of the term that no covariate lowers."""
        return next((term.coefficient for term in self.terms if not term.slopes), None)

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


def _logs(*columns: str) -> Covariates:
    return lambda frame: np.log(frame[list(columns)].to_numpy(dtype=float))


def _excess_and_compute(frame: pd.DataFrame) -> np.ndarray:
    """Log M and log C of M = D/N tokens a parameter and C = 6ND, (points, 2)."""
    n, d = (np.log(frame[name].to_numpy(dtype=float)) for name in ("n_params", "tokens"))
    return np.stack([d - n, np.log(6) + n + d], axis=1)


CHINCHILLA = Law(
    "chinchilla",
    (Term("A", (("alpha", 0, -1.0),)), Term("B", (("beta", 1, -1.0),)), Term("E")),
    ("alpha", "beta"),
    ("n_params", "tokens"),
    _logs("n_params", "tokens"),
    "L = E + A/N^α + B/D^β",
)
OVERTRAINING = Law(
    "overtraining",
    (
        Term("a", (("eta", 0, 1.0), ("eta", 1, -1.0))),
        Term("b", (("eta", 0, -1.0), ("eta", 1, -1.0))),
        Term("E"),
    ),
    ("eta",),
    ("n_params", "tokens"),
    _excess_and_compute,
    "L = E + (a·M^η + b·M^−η)·C^−η",
)


def power(column: str) -> Law:
    """L = A/x^α of one covariate."""
    term = Term("A", (("alpha", 0, -1.0),))
    return Law("power", (term,), ("alpha",), (column,), _logs(column), "L = A/x^α")


def power_floor(column: str) -> Law:
    """L = E + A/x^α of one covariate."""
    terms = (Term("A", (("alpha", 0, -1.0),)), Term("E"))
    return Law("power_floor", terms, ("alpha",), (column,), _logs(column), "L = E + A/x^α")


def law_of(name: str, frame: pd.DataFrame) -> Law:
    """The law called ``name`` for this frame.

    Laws of one covariate take ``tokens``, or where those do not vary ``compute`` or ``n_params``.
    Raises `InputError` if there is no such law.
    """
    match name:
        case "chinchilla":
            return CHINCHILLA
        case "overtraining":
            return OVERTRAINING
        case "power" | "power_floor":
            return (power if name == "power" else power_floor)(_varying(frame))
        case _:
            raise InputError(f"law is {name!r} but must be one of {', '.join(NAMES)}; choose one.")


def _varying(frame: pd.DataFrame) -> str:
    for column in ("tokens", "compute", "n_params"):
        if column in frame and len(np.unique(frame[column].to_numpy())) > 1:
            return column
    raise InputError(
        "The points have no column tokens, compute or n_params whose values differ; a law of one "
        "covariate needs one."
    )


NAMES = ("chinchilla", "power", "power_floor", "overtraining")
Fixed = Mapping[str, float]
