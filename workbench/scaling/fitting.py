"""Fit a scaling law to measured losses, with what is uncertain about it.

>>> points = pd.DataFrame({"n_params": [1e6, 1e7, 1e8] * 3, "tokens": [1e8] * 3 + [1e9, 1e10] * 3})
>>> points["loss"] = 1.8 + 400 / points["n_params"] ** 0.35 + 2000 / points["tokens"] ** 0.37
>>> fitted = fit(points, "chinchilla")
>>> [round(fitted.params[name], 2) for name in ("E", "alpha", "beta")]
[1.8, 0.35, 0.37]
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling import intervals, points
from workbench.scaling.huber import DELTA, huber, minimise
from workbench.scaling.laws import Law, law_of
from workbench.scaling.starts import starts

_KEPT = 3  # different minima from which every resample starts
_FLOOR_SHARE = 0.98  # of the lowest loss: a floor that may lie there is not told from the points


@dataclass(frozen=True, eq=False)
class FittedLaw:
    """A law with numbers in it.

    Attributes:
        law: which one.
        params: its parameters by name, in natural units.
        intervals: 95 % intervals {name: (low, high)}: bootstrap percentiles if there are draws,
            else profiles of the loss.
        objective: the summed Huber loss of log residuals, δ = 1e-3.
        residuals: (points,) log fitted less log measured, in nats of the logarithm.
        status: "" or in words why the numbers should not be relied on.
        fixed: parameters that were given.
        draws: (draws, parameters) logarithms of resampled fits, empty without a bootstrap.
    """

    law: Law
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: float
    residuals: np.ndarray
    status: str
    fixed: Mapping[str, float] = field(default_factory=dict)
    draws: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    spread: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # of the logarithms

    @property
    def theta(self) -> np.ndarray:
        """The logarithms of all parameters, (1, parameters)."""
        return np.log([[self.params[name] for name in self.law.parameters]])

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The law's loss at each row's covariates, (rows,), nats a token.

        Raises `InputError` if a column is missing or a value is not above 0.
        """
        return np.exp(self.law.log_loss(self.theta, self._covariates(frame))[0])

    def band(self, frame: pd.DataFrame, *, level: float = 0.95) -> np.ndarray:
        """Where the law itself lies, (rows, 2): narrower than where a new run's loss will."""
        centre, deviation = self._log_prediction(frame)
        return np.exp(intervals.normal_limits(centre, deviation, level=level))

    def predict_interval(self, frame: pd.DataFrame, level: float = 0.95) -> np.ndarray:
        """Where a new run's loss lies, (rows, 2): the law's uncertainty and a run's own scatter."""
        centre, deviation = self._log_prediction(frame)
        scatter = intervals.widened(self.residuals, self._free_count)
        return np.exp(intervals.mixture_limits(centre, deviation, -scatter, level=level))

    @property
    def _free_count(self) -> int:
        return len(self.law.parameters) - len(self.fixed)

    def _covariates(self, frame: pd.DataFrame) -> np.ndarray:
        return self.law.covariates(points.checked_covariates(frame, self.law.columns))

    def _log_prediction(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Log L and its standard deviation, (rows,) each."""
        log_loss, slopes = self.law.log_loss_and_slopes(self.theta, self._covariates(frame))
        variance = np.einsum("ni,ij,nj->n", slopes[0], self.spread, slopes[0])
        return log_loss[0], np.sqrt(np.maximum(variance, 0))


def fit(
    frame: pd.DataFrame,
    law: str = "chinchilla",
    *,
    fixed: Mapping[str, float] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> FittedLaw:
    """The law with the least summed Huber loss of log residuals, δ = 1e-3.

    Args:
        frame: a row a point, with ``loss`` in nats a token and what the law needs: ``n_params``,
            ``tokens``, ``compute``. ``run`` tells which points are of one run.
        law: ``chinchilla``, ``power``, ``power_floor`` or ``overtraining``. Laws of one covariate
            take ``tokens``, or where those do not vary ``compute`` or ``n_params``.
        fixed: parameters that are given rather than fitted, such as {"alpha": 0.35}.
        bootstrap: how many resamples to take, of runs and not of points.
        seed: of the resamples.

    Raises `InputError` for columns that are missing, losses that are not finite numbers above 0,
    fewer points than parameters, or an unknown law or parameter. What can be fitted but should not
    be relied on has its reason in ``status``.

    Source: objective of Hoffmann et al. 2022 (arXiv 2203.15556), summed as Besiroglu et al. 2024
    (arXiv 2404.10102) advise.
    """
    form = law_of(law, frame)
    given = _checked_fixed(form, fixed or {})
    checked = points.checked(frame, form.columns, parameters=len(form.parameters) - len(given))
    problem = Problem.of(form, checked, given)
    theta = problem.solve()
    draws = problem.resampled(theta, points.runs(checked), bootstrap, seed)
    return _told(problem, theta, draws, checked)


@dataclass(frozen=True, eq=False)
class Problem:
    """A law and the points it is fitted to; covariates are centred at their log means.

    Without centring a coefficient and its exponent hardly differ in what they do.
    """

    law: Law
    x: np.ndarray
    log_loss: np.ndarray
    means: np.ndarray
    free: np.ndarray
    fixed: Mapping[str, float]

    @classmethod
    def of(cls, law: Law, frame: pd.DataFrame, fixed: Mapping[str, float]) -> "Problem":
        """The problem of fitting ``law`` to ``frame`` with some parameters given."""
        x = law.covariates(frame)
        log_loss = np.log(frame["loss"].to_numpy(dtype=float))
        free = np.array([name not in fixed for name in law.parameters])
        means = np.zeros(x.shape[1]) if fixed else x.mean(axis=0)
        return cls(law, x - means, log_loss, means, free, fixed)

    def solve(self) -> np.ndarray:
        """The best minima that differ, (minima, parameters): at most three, the best first."""
        found = minimise(
            self.law, self.x, self.log_loss, self._with_fixed(self._starts()), free=self.free
        )
        order = np.argsort(found.loss, kind="stable")
        kept = [order[0]]
        for index in order[1:]:
            apart = [np.abs(found.theta[index] - found.theta[k]).max() > 1e-3 for k in kept]
            if all(apart) and len(kept) < _KEPT:
                kept.append(index)
        return found.theta[kept]

    def loss(self, theta: np.ndarray) -> float:
        """The objective at ``theta`` (parameters,)."""
        return float(huber(self.law.log_loss(theta[None], self.x)[0] - self.log_loss, DELTA).sum())

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Log fitted less log measured, (points,)."""
        return self.law.log_loss(theta[None], self.x)[0] - self.log_loss

    def resampled(self, theta: np.ndarray, runs: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """Fits of ``draws`` resamples of runs, (draws, parameters), from every kept minimum."""
        if draws == 0:
            return np.zeros((0, len(self.free)))
        weights = intervals.resampled_weights(runs, draws, seed)
        found = [
            minimise(
                self.law,
                self.x,
                self.log_loss,
                np.repeat(start[None], draws, axis=0),
                weights=weights,
                free=self.free,
                stages=(5.0, 1.0),
            )
            for start in theta
        ]
        best = np.argmin([each.loss for each in found], axis=0)
        return np.stack([each.theta for each in found])[best, np.arange(draws)]

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """Logarithms of uncentred parameters, of centred ones (…, parameters)."""
        shifted = np.array(theta, copy=True)
        for j, term in enumerate(self.law.terms):
            for exponent, column, sign in term.slopes:
                k = self.law.parameters.index(exponent)
                shifted[..., j] -= sign * np.exp(theta[..., k]) * self.means[column]
        return shifted

    def _starts(self) -> np.ndarray:
        return starts(self.law, self.x, self.log_loss)

    def _with_fixed(self, theta: np.ndarray) -> np.ndarray:
        for index, name in enumerate(self.law.parameters):
            if name in self.fixed:
                theta[:, index] = np.log(max(self.fixed[name], 1e-300))
        return theta


def _told(
    problem: Problem, minima: np.ndarray, draws: np.ndarray, frame: pd.DataFrame
) -> FittedLaw:
    law, theta = problem.law, minima[0]
    natural = problem.natural(theta)
    params = dict(zip(law.parameters, np.exp(natural).tolist(), strict=True))
    # The spread is of natural parameters, whose covariates are not centred.
    bare = replace(problem, x=problem.x + problem.means, means=np.zeros_like(problem.means))
    spread = intervals.covariance(bare, natural)
    told = (
        intervals.percentiles(problem.natural(draws), law.parameters, problem.fixed)
        if len(draws)
        else intervals.profiles(problem, theta)
    )
    fitted = FittedLaw(
        law=law,
        params=params,
        intervals=told,
        objective=problem.loss(theta),
        residuals=problem.residuals(theta),
        status="",
        fixed=dict(problem.fixed),
        draws=problem.natural(draws) if len(draws) else draws,
        spread=spread,
    )
    return replace(fitted, status=_status(fitted, frame))


def _status(fitted: FittedLaw, frame: pd.DataFrame) -> str:
    """Why not to rely on the numbers, "" if there is no reason."""
    law, lowest = fitted.law, float(np.min(frame["loss"].to_numpy()))
    for column in law.columns:
        distinct = len(np.unique(frame[column].to_numpy()))
        if distinct < 3:
            return (
                f"{column} has only {distinct} different values, too few to tell how the loss "
                "falls with it; measure at least three."
            )
    floor = law.floor
    if floor and floor not in fitted.fixed:
        low, high = fitted.intervals[floor]
        if low <= 1e-3 * lowest or high >= _FLOOR_SHARE * lowest:
            return (
                f"The floor {floor} is not identified: its interval, {low:.3g} to {high:.3g}, "
                f"reaches 0 or the lowest loss {lowest:.3g}; measure larger runs, or give it by "
                "fixed."
            )
    for name in law.exponents:
        if name in fitted.fixed:
            continue
        low, high = fitted.intervals[name]
        if low <= 0.02 or high > 4 * max(low, 1e-9):
            return (
                f"The exponent {name} is not identified: its interval is {low:.3g} to {high:.3g}; "
                "measure over a wider range."
            )
    return ""


def _checked_fixed(law: Law, fixed: Mapping[str, float]) -> dict[str, float]:
    for name, value in fixed.items():
        if name not in law.parameters:
            raise InputError(
                f"fixed names {name!r} but the law {law.name} has {', '.join(law.parameters)}; "
                "give one of these."
            )
        if not (np.isfinite(value) and value >= 0 and (value > 0 or name == law.floor)):
            raise InputError(
                f"fixed {name} is {value:g} but must be a finite number above 0; give one."
            )
    return dict(fixed)
