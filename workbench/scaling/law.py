"""What a scaling law is: log L and its derivatives, with parameters to be fitted.

A law works with numbers called θ: logarithms of its parameters, so that
coefficients and exponents stay positive and a floor that is not there runs towards 0; parameters
that may be negative stand in θ as they are. Most laws are sums of powers (`SumLaw`); those whose
covariates depend on parameters have a module of their own.

Losses are nats a token; parameters and tokens are counts.
"""

from abc import ABC, abstractmethod

import numpy as np
import pandas as pd

REACH = 60.0  # of a logarithm; beyond it a term is gone, or all there is
LOG_OF_NONE = -200.0  # in place of the logarithm of a covariate that is 0


class Law(ABC):
    """A law with parameters to be fitted.

    Attributes:
        name: what `fit` calls it.
        parameters: their names, in the order of θ.
        columns: what a frame has to have beside ``loss``.
        formula: the law in words of mathematics, for captions and messages.
        exponents: parameters that are said to be not identified when their interval reaches 0.
        floor: the parameter that is the least loss, if there is one.
        width: how many covariates there are.
        signed: parameters that stand in θ as they are.
        may_be_zero: columns whose values may be 0.
    """

    name: str
    parameters: tuple[str, ...]
    columns: tuple[str, ...]
    formula: str
    exponents: tuple[str, ...]
    floor: str | None = None
    width: int
    signed: frozenset[str] = frozenset()
    may_be_zero: tuple[str, ...] = ()

    @abstractmethod
    def covariates(self, frame: pd.DataFrame) -> np.ndarray:
        """(points, covariates) of a frame with these columns, mostly logarithms."""

    @abstractmethod
    def log_loss_and_slopes(
        self, theta: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log L (problems, points) and its derivatives (problems, points, parameters).

        Args:
            theta: (problems, parameters).
            x: (points, covariates) or (problems, points, covariates).
        """

    @abstractmethod
    def starts(self, x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
        """Where to begin a fit, (starts, parameters), from centred covariates."""

    @abstractmethod
    def centre(self, x: np.ndarray) -> np.ndarray:
        """What to take off the covariates before fitting, (covariates,)."""

    @abstractmethod
    def uncentred(self, theta: np.ndarray, means: np.ndarray) -> np.ndarray:
        """θ (…, parameters) for covariates that are not centred, from that for centred ones."""

    def moved_by_centring(self) -> tuple[str, ...]:
        """The parameters that `uncentred` changes."""
        probe = np.zeros((1, len(self.parameters)))
        moved = self.uncentred(probe, np.ones(self.width)) != probe
        return tuple(name for name, yes in zip(self.parameters, moved[0], strict=True) if yes)

    def log_loss(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Log L of every point, (problems, points); arguments as in `log_loss_and_slopes`."""
        return self.log_loss_and_slopes(theta, x)[0]

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest θ, (parameters,) each."""
        reach = np.full(len(self.parameters), REACH)
        return -reach, reach

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Parameters (…, parameters) of θ."""
        return np.where(self.is_signed, theta, np.exp(np.where(self.is_signed, 0.0, theta)))

    def theta(self, values: np.ndarray) -> np.ndarray:
        """θ (…, parameters) of parameters; a floor of 0 becomes one too small to count."""
        logs = np.log(np.maximum(np.where(self.is_signed, 1.0, values), 1e-300))
        return np.where(self.is_signed, values, logs)

    @property
    def is_signed(self) -> np.ndarray:
        """(parameters,) which stand in θ as they are."""
        return np.array([name in self.signed for name in self.parameters])


def distinct(frame: pd.DataFrame, column: str) -> int:
    """How many different values a column has."""
    return len(np.unique(np.asarray(frame[column])))


def taken(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """The rows where ``rows`` (rows,) of bool says so."""
    return frame.take(np.flatnonzero(rows))


def log_means(x: np.ndarray) -> np.ndarray:
    """The mean of each covariate's logarithms, without those that stand for 0."""
    there = x > LOG_OF_NONE / 2
    return np.where(there, x, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def logs(frame: pd.DataFrame, *columns: str) -> np.ndarray:
    """Logarithms of columns, (points, columns); 0 has a stand-in far below all else."""
    values = frame[list(columns)].to_numpy(dtype=float)
    return np.where(values > 0, np.log(np.where(values > 0, values, 1.0)), LOG_OF_NONE)
