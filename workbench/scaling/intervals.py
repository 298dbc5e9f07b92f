"""How uncertain a fitted law is: profiles of the loss, resampled runs, and predictions.

Huber's loss is no likelihood. Twice the rise of the loss over its minimum, times E[ψ′]/E[ψ²] with
ψ = h′, is χ² with one degree of freedom (Huber & Ronchetti 2009, section 7.6). Where most residuals
exceed δ, E[ψ′] is the density of residuals at zero times 2δ, and the rule becomes the one of least
absolute deviations: 4·f(0)·ΔQ/δ.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2, norm

from workbench.scaling.huber import DELTA, minimise

if TYPE_CHECKING:
    from workbench.scaling.fitting import Problem

LEVEL = 0.95
_HALVINGS = 12
_FARTHEST = 12.0  # of a logarithm from the estimate; what reaches so far has no end there


def profiles(problem: "Problem", theta: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of natural parameters, all ends sought side by side.

    An end is where the loss, least over all other parameters, has risen by its threshold.
    """
    law, free = problem.law, np.flatnonzero(problem.free)
    ends = [(k, side) for k in free for side in (-1.0, 1.0)]
    which = np.array([k for k, _ in ends], dtype=int)
    side = np.array([s for _, s in ends])
    # A natural coefficient is held where its own problem has covariates that are not centred.
    shifts = np.array([problem.means * (k < len(law.terms)) for k in which])
    x = problem.x[None] + shifts[:, None, :]
    natural = problem.natural(theta)
    own = np.where((which < len(law.terms))[:, None], natural, theta)
    allowed = problem.loss(theta) + _threshold(problem.residuals(theta), len(free))
    moves = np.repeat(problem.free[None], len(ends), axis=0)
    moves[np.arange(len(ends)), which] = False
    start = own[np.arange(len(ends)), which]

    def risen(distance: np.ndarray, warm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = warm.copy()
        held[np.arange(len(ends)), which] = start + side * distance
        found = minimise(law, x, problem.log_loss, held, free=moves, stages=(1.0,))
        return found.loss > allowed, found.theta

    inside, outside, warm = np.zeros(len(ends)), np.full(len(ends), 0.02), own
    for _ in range(12):
        above, theta_now = risen(outside, warm)
        if above.all():
            break
        inside = np.where(above, inside, outside)
        warm = np.where(above[:, None], warm, theta_now)
        outside = np.where(above, outside, np.minimum(outside * 2, _FARTHEST))
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        above, theta_now = risen(middle, warm)
        inside, outside = np.where(above, inside, middle), np.where(above, middle, outside)
        warm = np.where(above[:, None], warm, theta_now)
        if (outside - inside < 2e-3 * outside).all():
            break
    limits = np.exp(start + side * outside)
    endless = outside >= _FARTHEST * 0.99
    limits = np.where(endless, np.where(side < 0, 0.0, np.inf), limits)
    found = {
        law.parameters[k]: (float(limits[2 * i]), float(limits[2 * i + 1]))
        for i, k in enumerate(free)
    }
    return _with_fixed(found, law.parameters, problem.fixed)


def percentiles(
    draws: np.ndarray, names: Sequence[str], fixed: Mapping[str, float], level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """The middle ``level`` of resampled parameters, (draws, parameters) logarithms."""
    tail = (1 - level) / 2
    low, high = np.exp(np.quantile(draws, [tail, 1 - tail], axis=0))
    found = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return _with_fixed({n: v for n, v in found.items() if n not in fixed}, names, fixed)


def resampled_weights(runs: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """How often each point counts in each resample of runs, (draws, points)."""
    rng, count = np.random.default_rng(seed), int(runs.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, runs].astype(float)


def covariance(problem: "Problem", theta: np.ndarray) -> np.ndarray:
    """Of the logarithms of parameters: (JᵀJ)⁻¹·E[ψ²]/E[ψ′]², 0 for what is fixed."""
    _, slopes = problem.law.log_loss_and_slopes(theta[None], problem.x)
    free = np.flatnonzero(problem.free)
    own = slopes[0][:, free]
    curve, square = _moments(problem.residuals(theta), len(free))
    scale = square / curve**2
    full = np.zeros((len(theta), len(theta)))
    full[np.ix_(free, free)] = scale * np.linalg.pinv(own.T @ own, rcond=1e-12, hermitian=True)
    return full


def widened(residuals: np.ndarray, parameters: int) -> np.ndarray:
    """Residuals as new runs would have them: a fit takes up some of their scatter."""
    n = len(residuals)
    return residuals * np.sqrt(n / max(n - parameters, 1))


def normal_limits(centre: np.ndarray, deviation: np.ndarray, *, level: float) -> np.ndarray:
    """Centre ± z·deviation, (rows, 2)."""
    reach = float(norm.ppf((1 + level) / 2)) * deviation
    return np.stack([centre - reach, centre + reach], axis=-1)


def mixture_limits(
    centre: np.ndarray, deviation: np.ndarray, scatter: np.ndarray, *, level: float
) -> np.ndarray:
    """Quantiles (rows, 2) of centre + deviation·N(0, 1) + a value of ``scatter`` at random."""
    # A kernel about each residual stands for those that were not seen.
    kernel = 1.06 * _robust_deviation(scatter) * len(scatter) ** -0.2
    width = np.sqrt(deviation**2 + kernel**2)[:, None]
    reach = np.abs(scatter).max() + 10 * width[:, 0] + 1e-12
    limits = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        low, high = -reach, reach
        for _ in range(60):
            middle = (low + high) / 2
            below = ndtr((middle[:, None] - scatter) / np.maximum(width, 1e-300)).mean(axis=1)
            low, high = np.where(below < tail, middle, low), np.where(below < tail, high, middle)
        limits.append(centre + (low + high) / 2)
    return np.stack(limits, axis=-1)


def _threshold(residuals: np.ndarray, parameters: int) -> float:
    """By how much the summed loss may rise within a 95 % interval."""
    curve, square = _moments(residuals, parameters)
    return float(chi2.ppf(LEVEL, 1)) * square / (2 * curve)


def _moments(residuals: np.ndarray, parameters: int) -> tuple[float, float]:
    """E[ψ′] and E[ψ²] of Huber's loss, corrected for the parameters that were fitted."""
    n = len(residuals)
    scatter = widened(residuals, parameters)
    near = max(DELTA, 1.3 * _robust_deviation(scatter) * n**-0.2)
    curve = float(np.mean(np.abs(scatter) < near)) * DELTA / near
    square = float(np.mean(np.minimum(np.abs(scatter), DELTA) ** 2))
    return max(curve, 1e-12), max(square, 1e-30)


def _robust_deviation(values: np.ndarray) -> float:
    """A standard deviation that outliers hardly move: the lesser of it and the quartiles'."""
    low, high = np.quantile(values, [0.25, 0.75])
    by_quartiles = (high - low) / 1.349
    return float(min(values.std(), by_quartiles) or values.std())


def _with_fixed(
    found: dict[str, tuple[float, float]], names: Sequence[str], fixed: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    return {n: found[n] if n in found else (fixed[n], fixed[n]) for n in names}
