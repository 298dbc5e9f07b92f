"""Fit a scaling law to measured losses, with what is uncertain about it.

>>> points = pd.DataFrame({"n_params": [1e6, 1e7, 1e8] * 3, "tokens": [1e8] * 3 + [1e9, 1e10] * 3})
>>> points["loss"] = 1.8 + 400 / points["n_params"] ** 0.35 + 2000 / points["tokens"] ** 0.37
>>> fitted = fit(points, "chinchilla")
>>> [round(fitted.params[name], 2) for name in ("E", "alpha", "beta")]
[1.8, 0.35, 0.37]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling import intervals, points, status
from workbench.scaling.fitted import FittedFormula, FittedLaw
from workbench.scaling.huber import DELTA, STAGES, apart, huber, minimise
from workbench.scaling.law import Law
from workbench.scaling.laws import law_of

_KEPT = 3  # different minima from which every resample starts
_AFTER_FIRST_STAGE = 8  # different places that are followed to the end
_RIVAL = 1.2  # times the least loss; from a minimum that is higher, no resample starts
_EXACT = 1e-9  # residuals that are rounding: points made by the law, of which nothing is uncertain
_BOOTSTRAP_SETTLED = 1e-7  # of the loss, a thousandth of what a 95 % interval allows


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
            ``tokens``, ``compute``, ``unique_tokens``, ``steps``, ``noise_batch_ratio``,
            ``unigram_loss``. ``run`` tells which points are of one run.
        law: ``chinchilla``, ``power``, ``power_floor``, ``overtraining``, ``repeated_data``,
            ``isoflop`` or ``isoflop_akima``, ``noise_batch``, ``noise_power`` or ``private``. Laws
            of one covariate take ``tokens``, or where those do not vary ``compute`` or
            ``n_params``.
        fixed: parameters that are given rather than fitted, such as {"alpha": 0.35}.
        bootstrap: how many resamples to take, of runs and not of points.
        seed: of the resamples.

    Raises `InputError` for columns that are missing, losses that are not finite numbers above 0,
    fewer points than parameters, or an unknown law or parameter. What can be fitted but should not
    be relied on has its reason in ``status``.

    Source: objective of Hoffmann et al. 2022 (arXiv 2203.15556), summed as Besiroglu et al. 2024
    (arXiv 2404.10102) advise.
    """
    if law in ("isoflop", "isoflop_akima"):
        from workbench.scaling.isoflop import fit_isoflop

        method = "akima" if law.endswith("akima") else "parabola"
        return fit_isoflop(frame, method=method, fixed=fixed or {}, bootstrap=bootstrap)
    if law == "noise_batch":
        from workbench.scaling.noise_batch import fit_noise_batch

        return fit_noise_batch(frame, fixed=fixed or {}, bootstrap=bootstrap, seed=seed)
    problem, form = checked_problem(frame, law, fixed)
    given = problem.fixed
    minima = problem.solve()
    draws = problem.resampled(minima, bootstrap, seed)
    if np.abs(problem.residuals(minima[0])).max() < _EXACT:
        values = form.values(problem.natural(minima[0])).tolist()
        told = {n: (v, v) for n, v in zip(form.parameters, values, strict=True)}
        better = minima[0]
    elif len(draws):
        told, better = intervals.percentiles(problem.natural(draws), form, given), minima[0]
    else:
        told, better = intervals.profiles(problem, minima[0])
    if problem.loss(better) < problem.loss(minima[0]):  # a profile has come upon a lower place
        told, better = intervals.profiles(problem, problem.polished(better))
    return _told(problem, better if not len(draws) else minima[0], told, draws, frame)


def checked_problem(
    frame: pd.DataFrame, law: str, fixed: Mapping[str, float] | None
) -> tuple["Problem", Law]:
    """The problem of fitting a law that is a formula, and the law; errors as in `fit`."""
    if law in ("isoflop", "isoflop_akima", "noise_batch"):
        raise InputError(f"law is {law!r} but this needs a law that is a formula; choose another.")
    form = law_of(law, frame)
    given = _checked_fixed(form, fixed or {})
    return Problem.of(form, points.checked(frame, form, given), given), form


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
    runs: np.ndarray
    delta: float = DELTA

    @classmethod
    def of(
        cls, law: Law, frame: pd.DataFrame, fixed: Mapping[str, float], *, delta: float = DELTA
    ) -> "Problem":
        """The problem of fitting ``law`` to ``frame`` with some parameters given."""
        x = law.covariates(frame)
        log_loss = np.log(frame["loss"].to_numpy(dtype=float))
        free = np.array([name not in fixed for name in law.parameters])
        # A given coefficient is one of covariates that are not centred.
        held = set(law.moved_by_centring()) & set(fixed)
        means = np.zeros(x.shape[1]) if held else law.centre(x)
        return cls(law, x - means, log_loss, means, free, fixed, points.runs(frame), delta)

    @property
    def clusters(self) -> int:
        """How many runs the points are of."""
        return int(self.runs.max()) + 1

    def solve(self) -> np.ndarray:
        """The best minima that differ, (minima, parameters): at most three, the best first."""
        start = self._with_fixed(self.law.starts(self.x, self.log_loss))
        rough = self._minimised(start, STAGES[:1])
        kept = rough.theta[apart(rough, most=_AFTER_FIRST_STAGE)]
        found = self._minimised(kept, STAGES[1:])
        kept = apart(found, most=_KEPT, near=1e-3)
        return found.theta[kept[found.loss[kept] <= _RIVAL * found.loss[kept[0]]]]

    def polished(self, theta: np.ndarray) -> np.ndarray:
        """The minimum below ``theta`` (parameters,)."""
        return self._minimised(theta[None], STAGES[-1:]).theta[0]

    def loss(self, theta: np.ndarray) -> float:
        """The objective at ``theta`` (parameters,)."""
        return float(huber(self.residuals(theta), self.delta).sum())

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Log fitted less log measured, (points,)."""
        return self.law.log_loss(theta[None], self.x)[0] - self.log_loss

    def resampled(self, theta: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """Fits of ``draws`` resamples of runs, (draws, parameters), from every kept minimum."""
        if draws == 0:
            return np.zeros((0, len(self.free)))
        weights = intervals.resampled_weights(self.runs, draws, seed)
        found = [
            minimise(
                self.law,
                self.x,
                self.log_loss,
                np.repeat(start[None], draws, axis=0),
                weights=weights,
                free=self.free,
                delta=self.delta,
                stages=(5.0, 1.0),
                settled=_BOOTSTRAP_SETTLED,
            )
            for start in theta
        ]
        best = np.argmin([each.loss for each in found], axis=0)
        return np.stack([each.theta for each in found])[best, np.arange(draws)]

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """θ of covariates that are not centred (…, parameters), of that for centred ones."""
        return self.law.uncentred(theta, self.means)

    def uncentred(self) -> "Problem":
        """The same problem with covariates as they are."""
        return replace(self, x=self.x + self.means, means=np.zeros_like(self.means))

    def _minimised(self, start: np.ndarray, stages: tuple[float, ...]):
        return minimise(
            self.law,
            self.x,
            self.log_loss,
            start,
            free=self.free,
            delta=self.delta,
            stages=stages,
        )

    def _with_fixed(self, theta: np.ndarray) -> np.ndarray:
        for index, name in enumerate(self.law.parameters):
            if name in self.fixed:
                value = np.zeros(len(self.law.parameters))
                value[index] = self.fixed[name]
                theta[:, index] = self.law.theta(value)[index]
        return theta


def _told(
    problem: Problem,
    theta: np.ndarray,
    told: dict[str, tuple[float, float]],
    draws: np.ndarray,
    frame: pd.DataFrame,
) -> FittedFormula:
    law, natural = problem.law, problem.natural(theta)
    params = dict(zip(law.parameters, law.values(natural).tolist(), strict=True))
    residuals = problem.residuals(theta)
    refusal = status.before_fitting(law, frame, problem.fixed)
    if not refusal.reason:
        refusal = status.after_fitting(law, told, residuals, frame, problem.fixed)
    return FittedFormula(
        name=law.name,
        formula=law.formula,
        law=law,
        params=params | dict(problem.fixed),
        theta=natural[None],
        intervals=told,
        objective=problem.loss(theta),
        residuals=residuals,
        ranges=points.ranges(frame, law.columns),
        status=refusal.words,
        reason=refusal.reason,
        fixed=dict(problem.fixed),
        draws=problem.natural(draws) if len(draws) else draws,
        # Of natural parameters, whose covariates are not centred.
        spread=intervals.covariance(problem.uncentred(), natural),
        clusters=problem.clusters,
    )


def _checked_fixed(law: Law, fixed: Mapping[str, float]) -> dict[str, float]:
    for name, value in fixed.items():
        if name not in law.parameters:
            raise InputError(
                f"fixed names {name!r} but the law {law.name} has {', '.join(law.parameters)}; "
                "give one of these."
            )
        if not np.isfinite(value):
            raise InputError(f"fixed {name} is {value:g} but must be a finite number; give one.")
        if name not in law.signed and not (value > 0 or (value == 0 and name == law.floor)):
            raise InputError(
                f"fixed {name} is {value:g} but must be a finite number above 0; give one."
            )
    return dict(fixed)
