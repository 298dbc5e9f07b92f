"""How uncertain a fitted law is: profiles of the loss, resampled runs, and predictions.

Huber's loss is no likelihood. Twice the rise of the loss over its minimum, times E[ψ′]/E[ψ²] with
ψ = h′, is χ² with one degree of freedom (Huber & Ronchetti 2009, section 7.6). Where most residuals
exceed δ, E[ψ′] is the density of residuals at zero times 2δ, and the rule becomes the one of least
absolute deviations: 4·f(0)·ΔQ/δ. Where runs have several points each, the threshold of every
parameter grows by how much the sum over runs of their slopes varies more than that of single
points would (a sandwich, Liang & Zeger 1986).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from workbench.scaling.huber import minimise
from workbench.scaling.law import Law

if TYPE_CHECKING:
    from workbench.scaling.fitting import Problem

LEVEL = 0.95
_ROUNDS = 18
_NEAR_THRESHOLD = 0.01  # of the root of the rise, at the end of an interval
_FARTHEST = 12.0  # of a logarithm from the estimate; what reaches so far has no end there
_SETTLED = 1e-6

Intervals = dict[str, tuple[float, float]]


def profiles(problem: "Problem", theta: np.ndarray) -> tuple[Intervals, np.ndarray]:
    """95 % intervals of natural parameters, and the lowest place seen, (parameters,) centred.

    An end is where the loss, least over all other parameters, has risen by its threshold. All ends
    are sought side by side, each along the root of the rise, which is nearly a straight line.
    """
    search = _Ends(problem, theta)
    for _ in range(_ROUNDS):
        if search.done.all():
            break
        search.advance()
    values = problem.law.values(search.natural_ends())
    found: Intervals = {}
    for index, k in enumerate(search.which[::2]):
        low, high = values[2 * index, k], values[2 * index + 1, k]
        signed = problem.law.is_signed[k]
        if search.endless[2 * index]:
            low = -np.inf if signed else 0.0
        if search.endless[2 * index + 1]:
            high = np.inf
        found[problem.law.parameters[k]] = (float(low), float(high))
    return _with_fixed(found, problem.law, problem.fixed), search.lowest


class _Ends:
    """The search for both ends of every free parameter's interval."""

    def __init__(self, problem: "Problem", theta: np.ndarray) -> None:
        self.problem, law = problem, problem.law
        free = np.flatnonzero(problem.free)
        self.which = np.repeat(free, 2)
        self.side = np.tile([-1.0, 1.0], len(free))
        self.rows = np.arange(len(self.which))
        # A natural coefficient is held where its own problem has covariates that are not centred.
        moved = np.isin(np.array(law.parameters), law.moved_by_centring())[self.which]
        self.moved, natural = moved, problem.natural(theta)
        self.x = problem.x[None] + problem.means * moved[:, None, None]
        self.warm = np.where(moved[:, None], natural, theta)
        self.centre = self.warm[self.rows, self.which]
        self.moves = np.repeat(problem.free[None], len(self.which), axis=0)
        self.moves[self.rows, self.which] = False
        least, most = law.limits()
        room = np.where(
            self.side < 0, self.centre - least[self.which], most[self.which] - self.centre
        )
        self.reach = np.minimum(_FARTHEST, np.maximum(room, 0))
        self.best = problem.loss(theta)
        self.lowest = theta
        bare = problem.uncentred()
        spread = covariance(bare, natural)
        self.allowed = thresholds(bare, natural)[self.which]
        self.inside, self.inside_root = np.zeros(len(self.which)), np.full(len(self.which), -1.0)
        self.outside = np.full(len(self.which), np.nan)
        self.outside_root = np.full(len(self.which), np.nan)
        guess = 2 * np.sqrt(np.maximum(np.diagonal(spread)[self.which], 1e-16))
        self.next = np.clip(guess, 1e-6, self.reach)
        self.done = self.reach <= 0
        self.endless = self.done.copy()
        self.end = np.zeros(len(self.which))

    def advance(self) -> None:
        """Try the next place of every end that is not found, and choose the one after."""
        left = np.flatnonzero(~self.done)
        held = self.warm[left].copy()
        held[np.arange(len(left)), self.which[left]] = (
            self.centre[left] + self.side[left] * self.next[left]
        )
        found = minimise(
            self.problem.law,
            self.x[left],
            self.problem.log_loss,
            held,
            free=self.moves[left],
            delta=self.problem.delta,
            stages=(1.0,),
            settled=_SETTLED,
        )
        self._note_lower(left, found.theta, found.loss)
        rise = np.maximum(found.loss - self.best, 0)
        root = np.sqrt(rise / self.allowed[left]) - 1
        for i, r, theta in zip(left, root, found.theta, strict=True):
            self._learn(int(i), float(r), theta)

    def _learn(self, i: int, root: float, theta: np.ndarray) -> None:
        here = float(self.next[i])
        if abs(root) < _NEAR_THRESHOLD:
            self.done[i], self.end[i] = True, here
            return
        if root < 0:
            self.inside[i], self.inside_root[i], self.warm[i] = here, root, theta
            if here >= self.reach[i] * 0.999:
                self.done[i], self.endless[i], self.end[i] = True, True, here
                return
        else:
            self.outside[i], self.outside_root[i] = here, root
        low, high = self.inside[i], self.outside[i]
        if np.isnan(high):
            self.next[i] = min(
                here * float(np.clip(1.05 / max(1 + root, 1e-3), 1.2, 4)), self.reach[i]
            )
            return
        if high - low < 2e-3 * high:
            self.done[i], self.end[i] = True, high
            return
        share = -self.inside_root[i] / (self.outside_root[i] - self.inside_root[i])
        self.next[i] = low + (high - low) * float(np.clip(share, 0.1, 0.9))

    def _note_lower(self, left: np.ndarray, theta: np.ndarray, loss: np.ndarray) -> None:
        """Keep a place that is lower than the minimum: it was not the lowest one."""
        for i in np.flatnonzero(loss < self.best * (1 - 1e-6) - 1e-14):
            if self.moved[left[i]]:  # back to centred covariates
                place = self.problem.law.uncentred(theta[i], -self.problem.means)
            else:
                place = theta[i]
            if self.problem.loss(place) < self.problem.loss(self.lowest):
                self.lowest = place

    def natural_ends(self) -> np.ndarray:
        """θ with the parameter of each end there, (ends, parameters)."""
        ends = self.warm.copy()
        ends[self.rows, self.which] = self.centre + self.side * self.end
        return ends


def percentiles(
    draws: np.ndarray, law: Law, fixed: Mapping[str, float], level: float = LEVEL
) -> Intervals:
    """The middle ``level`` of resampled parameters, (draws, parameters) of θ."""
    tail = (1 - level) / 2
    low, high = law.values(np.quantile(draws, [tail, 1 - tail], axis=0))
    found = {name: (float(low[i]), float(high[i])) for i, name in enumerate(law.parameters)}
    return _with_fixed(found, law, fixed)


def resampled_weights(runs: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """How often each point counts in each resample of runs, (draws, points)."""
    rng, count = np.random.default_rng(seed), int(runs.max()) + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, runs].astype(float)


def covariance(problem: "Problem", theta: np.ndarray) -> np.ndarray:
    """Of θ: (JᵀJ)⁻¹·E[ψ²]/E[ψ′]², or the sandwich over runs where that is more; 0 where fixed."""
    single, by_run = _covariances(problem, theta)
    if by_run is None:
        return single
    grown = np.sqrt(_growth(single, by_run))
    return single * np.outer(grown, grown)


def thresholds(problem: "Problem", theta: np.ndarray) -> np.ndarray:
    """By how much the summed loss may rise within a 95 % interval, (parameters,)."""
    curve, square = _moments(problem, theta)
    freedom = max(problem.clusters - int(problem.free.sum()), 1)
    one = float(f_distribution.ppf(LEVEL, 1, freedom)) * square / (2 * curve)
    single, by_run = _covariances(problem, theta)
    grown = np.ones(len(theta)) if by_run is None else _growth(single, by_run)
    return one * grown


def widened(residuals: np.ndarray, parameters: int) -> np.ndarray:
    """Residuals as new runs would have them: a fit takes up some of their scatter."""
    n = len(residuals)
    return residuals * np.sqrt(n / max(n - parameters, 1))


def student_limits(
    centre: np.ndarray, deviation: np.ndarray, *, level: float, freedom: float
) -> np.ndarray:
    """Centre ± t·deviation, (rows, 2)."""
    reach = float(student.ppf((1 + level) / 2, freedom)) * deviation
    return np.stack([centre - reach, centre + reach], axis=-1)


def mixture_limits(
    centre: np.ndarray, deviation: np.ndarray, scatter: np.ndarray, *, level: float
) -> np.ndarray:
    """Quantiles (rows, 2) of centre + deviation·N(0, 1) + a value of ``scatter`` at random."""
    # A kernel about each residual stands for those that were not seen.
    kernel = 1.06 * robust_deviation(scatter) * len(scatter) ** -0.2
    width = np.sqrt(deviation**2 + kernel**2)[:, None]
    reach = np.abs(scatter).max() + 10 * width[:, 0] + 1e-12
    limits = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        low, high = -reach, reach
        for _ in range(40):
            middle = (low + high) / 2
            below = ndtr((middle[:, None] - scatter) / np.maximum(width, 1e-300)).mean(axis=1)
            low, high = np.where(below < tail, middle, low), np.where(below < tail, high, middle)
        limits.append(centre + (low + high) / 2)
    return np.stack(limits, axis=-1)


def robust_deviation(values: np.ndarray) -> float:
    """A standard deviation that outliers hardly move: the lesser of it and the quartiles'."""
    low, high = np.quantile(values, [0.25, 0.75])
    by_quartiles = (high - low) / 1.349
    return float(min(values.std(), by_quartiles) or values.std())


def _covariances(problem: "Problem", theta: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """By single points, and by runs if there are fewer runs than points."""
    slopes = problem.law.log_loss_and_slopes(theta[None], problem.x)[1][0]
    free = np.flatnonzero(problem.free)
    own, residuals = slopes[:, free], problem.residuals(theta)
    curve, square = _moments(problem, theta)
    # Scaled columns, because the floor's and an exponent's slopes differ by orders.
    length = np.sqrt((own**2).sum(axis=0)) + 1e-300
    inverse = np.linalg.pinv((own / length).T @ (own / length), rcond=1e-13, hermitian=True)
    inverse /= np.outer(length, length)
    single = _placed(inverse * square / curve**2, free, len(theta))
    if problem.clusters == len(residuals):
        return single, None
    psi = np.clip(widened(residuals, len(free)), -problem.delta, problem.delta)
    by_run = np.zeros((problem.clusters, len(free)))
    np.add.at(by_run, problem.runs, own * psi[:, None])
    bread = inverse / curve
    few = problem.clusters / max(problem.clusters - 1, 1)
    meat = few * by_run.T @ by_run
    return single, _placed(bread @ meat @ bread, free, len(theta))


def _growth(single: np.ndarray, by_run: np.ndarray) -> np.ndarray:
    """How many times larger the variance of each parameter is by runs; at least 1."""
    before = np.diagonal(single)
    return np.maximum(np.diagonal(by_run) / np.where(before > 0, before, np.inf), 1.0)


def _placed(small: np.ndarray, free: np.ndarray, size: int) -> np.ndarray:
    full = np.zeros((size, size))
    full[np.ix_(free, free)] = small
    return full


def _moments(problem: "Problem", theta: np.ndarray) -> tuple[float, float]:
    """E[ψ′] and E[ψ²] of Huber's loss, corrected for the parameters that were fitted."""
    residuals, parameters, delta = problem.residuals(theta), int(problem.free.sum()), problem.delta
    n = len(residuals)
    scatter = widened(residuals, parameters)
    near = max(delta, 1.3 * robust_deviation(scatter) * n**-0.2)
    # As good as all residuals are so small where squares are meant; then all count.
    count = float((np.abs(scatter) < near).sum())
    if near > delta:
        # A fit by absolute deviations passes through as many points as it has parameters.
        count, n = max(count - parameters, 1.0), max(n - parameters, 1)
    square = float(np.mean(np.minimum(np.abs(scatter), delta) ** 2))
    return max(count / n * min(delta / near, 1.0), 1e-12), max(square, 1e-30)


def _with_fixed(found: Intervals, law: Law, fixed: Mapping[str, float]) -> Intervals:
    return {n: (fixed[n], fixed[n]) if n in fixed else found[n] for n in law.parameters}
