"""The semi-parametric law of private training (McKenna et al. 2025, arXiv 2501.18914, section 3).

Every run is a curve of losses over steps T at one size M and one noise-batch ratio σ̄. Curves are
smoothed by a rolling mean; at each T the best learning rate counts, which favours lucky runs; and
the losses are put in order: more steps do not hurt and more noise does not help. Between what was
measured the loss is interpolated in (ln M, ln T, ln σ̄); beyond the last step it follows
L = E + A/T^α, fitted to the end of each curve.

How sure it is comes from runs that differ by chance: from several of one setting if there are, else
from how unevenly the losses lie along σ̄.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from workbench.errors import InputError
from workbench.scaling import intervals, points, status
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.law import distinct
from workbench.scaling.noise_curves import Curves, curves
from workbench.scaling.noise_surface import Surface, surface

FORMULA = "L(M, T, σ̄) isotonic, interpolated in logarithms; E + A/T^α beyond the last step"
COLUMNS = ("n_params", "steps", "noise_batch_ratio")
_DRAWS = 40
_QUANTILES = ndtri((np.arange(41) + 0.5) / 41)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedNoiseBatch(FittedLaw):
    """The surface with its resamples.

    Attributes:
        surfaces: the fitted one first, then those of curves with other chance.
        run_deviation: standard deviation of log loss between runs of one setting.
        settings: a row a size and noise-batch ratio: how many runs, the best learning rate at the
            end, whether that is at the edge of those tried, and the tail's E, A and α.
    """

    surfaces: tuple[Surface, ...]
    run_deviation: float
    settings: pd.DataFrame

    @property
    def freedom(self) -> float:
        """Runs that are left to tell of the scatter; at least 1."""
        return float(
            max(int(np.sum(np.asarray(self.settings["runs"]))) - len(self.settings) // 2, 1)
        )

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The surface's loss at each row's covariates, (rows,), nats a token."""
        return np.exp(self.surfaces[0].log_loss(*self._covariates(frame)))

    def predict_interval(self, frame: pd.DataFrame, level: float = 0.95) -> np.ndarray:
        """Where a new run's loss lies, (rows, 2)."""
        centre, deviation = self._log_prediction(frame)
        scatter = self.run_deviation * _QUANTILES
        return np.exp(intervals.mixture_limits(centre, deviation, scatter, level=level))

    def _log_prediction(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        covariates = self._covariates(frame)
        logs = np.stack([each.log_loss(*covariates) for each in self.surfaces])
        return logs[0], logs[1:].std(axis=0)

    def _covariates(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ln M, ln T and σ̄, (rows,) each."""
        m, t = (np.log(points.checked_column(frame, name)) for name in COLUMNS[:2])
        return m, t, points.checked_column(frame, COLUMNS[2], zero=True)


def fit_noise_batch(
    frame: pd.DataFrame, *, fixed: Mapping[str, float], bootstrap: int, seed: int
) -> FittedNoiseBatch:
    """The surface of runs with several evaluations each; see `fit` for arguments and errors."""
    for name, value in fixed.items():
        if name not in ("E", "alpha") or not (np.isfinite(value) and value >= 0):
            raise InputError(
                f"fixed names {name!r} = {value:g} but the law noise_batch has E and alpha, of at "
                "least 0, beyond the last step; give one of these."
            )
    found = curves(_checked(frame))
    fitted = surface(found.steps, found.tables(), fixed)
    run_deviation = found.run_deviation()
    rng, smooth = np.random.default_rng(seed), found.smooth(fitted)
    others = [
        surface(found.steps, found.with_other_chance(smooth, run_deviation, rng).tables(), fixed)
        for _ in range(bootstrap or _DRAWS)
    ]
    residuals = _residuals(found, fitted)
    tails = np.array([[s.tail(name) for name in ("E", "alpha")] for s in (fitted, *others)])
    params = {"E": float(tails[0, 0]), "alpha": float(tails[0, 1])}
    low, high = np.quantile(tails[1:], [0.025, 0.975], axis=0)
    told = {"E": (float(low[0]), float(high[0])), "alpha": (float(low[1]), float(high[1]))}
    refusal = _refusal(found)
    return FittedNoiseBatch(
        name="noise_batch",
        formula=FORMULA,
        params=params | dict(fixed),
        intervals={n: (fixed[n], fixed[n]) if n in fixed else told[n] for n in told},
        objective=float(np.abs(residuals).sum()),
        residuals=residuals,
        ranges=points.ranges(frame, COLUMNS),
        status=refusal.words,
        reason=refusal.reason,
        fixed=dict(fixed),
        surfaces=(fitted, *others),
        run_deviation=run_deviation,
        settings=found.settings(fitted),
    )


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    kept = pd.DataFrame(
        {
            "n_params": points.checked_column(frame, "n_params"),
            "steps": points.checked_column(frame, "steps"),
            "noise_batch_ratio": points.checked_column(frame, "noise_batch_ratio", zero=True),
            "loss": points.checked_losses(frame),
        }
    )
    points.refuse_copies(frame)
    kept["learning_rate"] = (
        points.checked_column(frame, "learning_rate") if "learning_rate" in frame else 1.0
    )
    keys = ["n_params", "noise_batch_ratio", "learning_rate"]
    kept["run"] = (
        frame["run"].to_numpy() if "run" in frame else kept.groupby(keys, sort=True).ngroup()
    )
    for column in COLUMNS:
        if distinct(kept, column) < 2:
            raise InputError(
                f"{column} is {kept[column].iloc[0]:g} in every row, so that the law noise_batch "
                "cannot tell how the loss changes with it; measure at least three values."
            )
    return kept


def _residuals(found: Curves, fitted: Surface) -> np.ndarray:
    """Log fitted less log measured, of runs at their setting's best learning rate."""
    rows = found.best_rows()
    log_fitted = fitted.log_loss(
        np.log(rows["n_params"].to_numpy()),
        np.log(rows["steps"].to_numpy()),
        rows["noise_batch_ratio"].to_numpy(),
    )
    return log_fitted - np.log(rows["loss"].to_numpy())


def _refusal(found: Curves) -> status.Refusal:
    ratios = distinct(found.frame, "noise_batch_ratio")
    if ratios < 3:
        return status.Refusal(
            "too_few_values",
            f"noise_batch_ratio has only {ratios} different values, too few to tell how "
            "the loss rises with it; measure at least three.",
        )
    return status.noise_follows_steps(found.frame.groupby("run").last(), COLUMNS)
