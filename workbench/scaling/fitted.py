"""A fitted law: its numbers, how sure they are, and what it predicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling import intervals, points
from workbench.scaling.law import Law
from workbench.scaling.status import Reason

FAR = 10.0  # times beyond the points: from there on a prediction is refused


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedLaw:
    """A law with numbers in it.

    Attributes:
        name: which law, as `fit` calls it.
        formula: the law as written.
        params: its parameters by name, in natural units.
        intervals: 95 % intervals {name: (low, high)}: bootstrap percentiles if there are draws,
            else profiles of the loss.
        objective: the summed Huber loss of log residuals, δ = 1e-3.
        residuals: (points,) log fitted less log measured, in nats of the logarithm.
        ranges: least and greatest value of each covariate among the points.
        status: "" or in words why the numbers should not be relied on.
        reason: the same as one word, such as ``floor_not_identified``; "" if there is none.
        fixed: parameters that were given.
    """

    name: str
    formula: str
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: float
    residuals: np.ndarray
    ranges: Mapping[str, tuple[float, float]]
    status: str = ""
    reason: Reason = ""
    fixed: Mapping[str, float] = field(default_factory=dict)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The law's loss at each row's covariates, (rows,), nats a token.

        Raises `InputError` if a column is missing or a value is out of bounds.
        """
        return np.exp(self._log_prediction(frame)[0])

    def band(self, frame: pd.DataFrame, *, level: float = 0.95) -> np.ndarray:
        """Where the law itself lies, (rows, 2): narrower than where a new run's loss will."""
        centre, deviation = self._log_prediction(frame)
        return np.exp(
            intervals.student_limits(centre, deviation, level=level, freedom=self.freedom)
        )

    def predict_interval(self, frame: pd.DataFrame, level: float = 0.95) -> np.ndarray:
        """Where a new run's loss lies, (rows, 2): the law's uncertainty and a run's own scatter."""
        centre, deviation = self._log_prediction(frame)
        scatter = intervals.widened(self.residuals, self.free_count)
        return np.exp(intervals.mixture_limits(centre, deviation, -scatter, level=level))

    def outside(self, frame: pd.DataFrame) -> np.ndarray:
        """How many times beyond the points each row lies, (rows,); 1 within their ranges.

        Of several covariates it is the one that is farthest out; a value of 0 is never out.
        """
        factor = np.ones(len(frame))
        for column, (low, high) in self.ranges.items():
            if column not in frame:
                continue
            values = frame[column].to_numpy(dtype=float)
            with np.errstate(divide="ignore", invalid="ignore"):
                beyond = np.maximum(values / high, low / values)
            factor = np.maximum(factor, np.where((values > 0) & (high > 0), beyond, 1.0))
        return factor

    def refusal_at(self, frame: pd.DataFrame, *, most: float = FAR) -> str:
        """Why the law should not be asked about these rows, "" if it may."""
        if self.status:
            return self.status
        for column, (low, high) in self.ranges.items():
            if column not in frame or not low > 0:
                continue
            values = frame[column].to_numpy(dtype=float)
            above = float(values.max())
            below = float(values[values > 0].min(initial=low))
            value, times = max(
                (above, above / high), (below, low / below), key=lambda pair: pair[1]
            )
            if times > most:
                return (
                    f"{column} is {value:.3g} but the law was fitted from {low:.3g} to "
                    f"{high:.3g}, and {times:.3g} times beyond is too far (at most {most:g}); "
                    "measure nearer."
                )
        return ""

    @property
    def free_count(self) -> int:
        """How many parameters were fitted."""
        return len(self.params) - len(self.fixed)

    @property
    def freedom(self) -> float:
        """Points that are left to tell of the scatter; at least 1."""
        return float(max(len(self.residuals) - self.free_count, 1))

    def _log_prediction(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Log L and its standard deviation, (rows,) each."""
        raise NotImplementedError(f"{self.name} of {len(frame)} rows")


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedFormula(FittedLaw):
    """A law that is a formula.

    Attributes:
        law: the formula.
        theta: (1, parameters) what it was fitted to, as the law keeps it.
        draws: (draws, parameters) of resampled fits, empty without a bootstrap.
        spread: (parameters, parameters) covariance of θ.
        clusters: how many runs the points are of.
    """

    law: Law
    theta: np.ndarray
    draws: np.ndarray
    spread: np.ndarray
    clusters: int

    @property
    def freedom(self) -> float:
        """Runs, rather than points, that are left to tell of the scatter; at least 1."""
        return float(max(self.clusters - self.free_count, 1))

    def best_learning_rate(self, frame: pd.DataFrame) -> np.ndarray:
        """The law's best learning rate at each row, (rows,); `InputError` if it knows none."""
        from workbench.scaling.private_law import PrivateLaw

        if not (isinstance(self.law, PrivateLaw) and self.law.with_rate):
            raise InputError(
                f"The law {self.name} was fitted without learning rates; fit 'private' to points "
                "with a column learning_rate of different values."
            )
        return self.law.best_learning_rate(self.theta, frame)

    def _log_prediction(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        checked = points.checked_covariates(frame, self.law)
        x = self.law.covariates(checked)
        log_loss, slopes = self.law.log_loss_and_slopes(self.theta, x)
        if len(self.draws):
            deviation = self.law.log_loss(self.draws, x).std(axis=0)
        else:
            variance = np.einsum("ni,ij,nj->n", slopes[0], self.spread, slopes[0])
            deviation = np.sqrt(np.maximum(variance, 0))
        return log_loss[0], deviation
