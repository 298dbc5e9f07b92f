"""What noisy sums on coordinates of known gradients say of σ, q, clipping and sampling.

A gradient canary j has two coordinates of its own, left and right, on different layers. Where it is
in and drawn, it puts C·(0.96, 0.28) there, after its gradient, four times as long, was clipped.
Every other record puts C on one coordinate that they share, the roll call, so that it counts them.
All numbers here are in units of C, and each check has a test of its own that holds at its stated
significance where the claim is true.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtri
from scipy.stats import chi2, f, norm

LEFT, RIGHT = (
    0.96,
    0.28,
)  # a unit vector whose halves are unequal, so that clipping them apart shows
_BINS = 1000
_LEAST_NOISE = 0.02  # below it a mixture's two levels are apart anyway, and densities overflow
_DOUBTFUL = 0.05
_STARTS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Claim:
    """What a loop says of itself: σ, q and C, and the expected batch size that it divides by."""

    noise_multiplier: float
    sample_rate: float
    max_grad_norm: float
    expected_batch_size: float


@dataclass(frozen=True, eq=False)
class Observed:
    """Noisy sums in units of C.

    Attributes:
        left: (steps, canaries).
        right: (steps, canaries).
        roll: (steps,) the roll call.
        included: (canaries,) the coins.
        n_roll: how many records answer the roll call when they are drawn.
    """

    left: np.ndarray
    right: np.ndarray
    roll: np.ndarray
    included: np.ndarray
    n_roll: int

    @property
    def steps(self) -> int:
        """How many steps were seen."""
        return len(self.roll)

    def first(self, steps: int) -> "Observed":
        """The first ``steps`` of them."""
        return Observed(
            self.left[:steps], self.right[:steps], self.roll[:steps], self.included, self.n_roll
        )

    @property
    def along(self) -> np.ndarray:
        """(steps, canaries): how far each sum goes along its canary."""
        return LEFT * self.left + RIGHT * self.right

    @property
    def across(self) -> np.ndarray:
        """(steps, canaries): how far it goes aside; noise alone, whoever is in."""
        return LEFT * self.right - RIGHT * self.left

    @property
    def noise(self) -> np.ndarray:
        """(steps, coordinates) of the canaries that are out."""
        out = ~self.included
        return np.concatenate([self.left[:, out], self.right[:, out]], axis=1)


@dataclass(frozen=True)
class Measured:
    """An estimate with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Finding:
    """One check: what was claimed and measured, and how unlikely that is if the claim holds."""

    name: str
    claimed: float
    measured: Measured
    p_value: float


def measured_noise(observed: Observed, *, significance: float) -> Measured:
    """σ̂ = √(Σx²/n) over the coordinates of canaries that are out; its interval by χ²."""
    noise = observed.noise
    total, n = float(np.square(noise).sum()), noise.size
    low, high = (total / chi2.ppf(1 - significance / 2, n), total / chi2.ppf(significance / 2, n))
    return Measured(math.sqrt(total / n), math.sqrt(low), math.sqrt(high))


def findings(observed: Observed, claim: Claim, *, significance: float) -> list[Finding]:
    """All checks of one stretch of steps; intervals at ``significance``."""
    return list(_findings(observed, claim, significance))


def _findings(observed: Observed, claim: Claim, significance: float) -> Iterator[Finding]:
    sigma = measured_noise(observed, significance=significance)
    noise, n = observed.noise, observed.noise.size
    ratio = float(np.square(noise).sum()) / claim.noise_multiplier**2
    yield Finding("noise", claim.noise_multiplier, sigma, _two_sided(chi2.cdf, ratio, n))
    if sigma.value > 0 and observed.steps > 1:
        yield _anew_each_step(noise, significance)
        yield _own_of_each_coordinate(noise, significance)
        yield _alike_in_every_step(noise)
    yield from _roll_call(observed, claim, sigma.value, significance)
    yield from _mixture(observed, claim, sigma.value, significance)
    if observed.included.any():
        yield _direction(observed, claim, max(sigma.value, _LEAST_NOISE), significance)


def _anew_each_step(noise: np.ndarray, significance: float) -> Finding:
    """Noise drawn twice adds up: the mean of a coordinate over steps varies too much."""
    between = len(noise) * float(np.square(noise.mean(axis=0)).sum())
    return _variance_ratio("noise anew each step", between, noise, noise.shape[1], significance)


def _own_of_each_coordinate(noise: np.ndarray, significance: float) -> Finding:
    """Noise shared by coordinates: the mean of a step over coordinates varies too much."""
    between = noise.shape[1] * float(np.square(noise.mean(axis=1)).sum())
    return _variance_ratio("noise of each coordinate", between, noise, len(noise), significance)


def _variance_ratio(
    name: str, between: float, noise: np.ndarray, groups: int, significance: float
) -> Finding:
    """Between groups against within them: F(groups, rest) where all is independent, mean 0."""
    rest = noise.size - groups
    within = (float(np.square(noise).sum()) - between) / rest
    ratio = between / groups / within if within > 1e-12 * between else math.inf
    low, high = (float(ratio / f.ppf(part, groups, rest)) for part in _ends(significance))
    p_value = _two_sided(lambda x, *d: f.cdf(x, *d), ratio, groups, rest)
    return Finding(name, 1.0, Measured(ratio, low, high), p_value)


def _alike_in_every_step(noise: np.ndarray) -> Finding:
    """Bartlett's test that every step has the same deviation; tells the largest over the least."""
    steps, n = noise.shape
    variances = np.maximum(np.square(noise).mean(axis=1), 1e-300)
    pooled = variances.mean()
    statistic = n * (steps * math.log(pooled) - float(np.log(variances).sum()))
    statistic /= 1 + (steps / n - 1 / (steps * n)) / (3 * (steps - 1))
    spread = math.sqrt(float(variances.max() / variances.min()))
    alone = Measured(spread, spread, spread)
    return Finding("noise alike in every step", 1.0, alone, float(chi2.sf(statistic, steps - 1)))


def _roll_call(
    observed: Observed, claim: Claim, sigma: float, significance: float
) -> Iterator[Finding]:
    """How many records a batch holds, and whether that varies as independent draws do."""
    steps, records, q = observed.steps, observed.n_roll, claim.sample_rate
    if not records:
        return
    variance = records * q * (1 - q) + sigma**2
    mean = float(observed.roll.mean())
    error = math.sqrt(variance / steps)
    yield _normal("records in a batch", records * q, mean, error, significance)
    if steps > 1:
        squares = float(np.square(observed.roll - mean).sum())
        ratio = squares / variance
        ends = (squares / chi2.ppf(part, steps - 1) for part in _ends(significance))
        low, high = (math.sqrt(end) for end in ends)
        spread = Measured(math.sqrt(squares / (steps - 1)), low, high)
        p_value = _two_sided(chi2.cdf, ratio, steps - 1)
        yield Finding("spread of batches", math.sqrt(variance), spread, p_value)


def _direction(observed: Observed, claim: Claim, sigma: float, significance: float) -> Finding:
    """How far a canary that was drawn moves the sum aside, which clipping as a whole never does.

    Each sum counts by how likely it makes it that the canary was drawn; that is known from the sum
    along, of which the one across is independent.
    """
    along, across = (of[:, observed.included] for of in (observed.along, observed.across))
    drawn = expit(logit(min(claim.sample_rate, 0.999)) + (2 * along - 1) / (2 * sigma**2))
    weight = float(np.square(drawn).sum())
    aside = float((drawn * across).sum()) / weight
    return _normal("direction", 0.0, aside, sigma / math.sqrt(weight), significance)


def _mixture(
    observed: Observed, claim: Claim, sigma: float, significance: float
) -> Iterator[Finding]:
    """How often a canary that is in is drawn, and how far it then moves the sum."""
    along = observed.along[:, observed.included]
    if not along.size:
        return
    wide = max(sigma, _LEAST_NOISE)
    counts, edges = np.histogram(along, _BINS)
    used = counts > 0
    counts, places = counts[used], ((edges[1:] + edges[:-1]) / 2)[used]

    def cost(point: np.ndarray) -> float:
        q, amplitude = expit(point[0]), point[1]
        with_it = math.log(q) + norm.logpdf(places, amplitude, wide)
        without = math.log1p(-q) + norm.logpdf(places, 0.0, wide)
        return -float(counts @ np.logaddexp(with_it, without))

    start = logit(min(claim.sample_rate, 0.999))
    bounds = [(-14.0, 14.0), (1e-3, None)]

    def fitted(amplitude: float) -> tuple[float, np.ndarray]:
        point = np.array([start, amplitude])
        fit = minimize(cost, point, method="L-BFGS-B", bounds=bounds)
        return float(fit.fun), fit.x

    claimed = cost(np.array([start, 1.0]))
    least, best = fitted(1.0)
    if (
        chi2.sf(2 * (claimed - least), 2) < _DOUBTFUL
    ):  # then the best fit may lie far from the claim
        least, best = min((fitted(amplitude) for amplitude in _STARTS), key=lambda fit: fit[0])
    p_value = float(chi2.sf(max(2 * (claimed - least), 0.0), 2))
    errors = _errors(cost, best)
    z = float(ndtri(1 - significance / 2))
    ends = (float(expit(best[0] + side * z * errors[0])) for side in (-1, 1))
    rate = Measured(float(expit(best[0])), *ends)
    length = float(best[1])
    clipped = Measured(length, length - z * errors[1], length + z * errors[1])
    yield Finding("sample rate", claim.sample_rate, rate, p_value)
    yield Finding("clipped length", 1.0, clipped, p_value)


def _errors(cost: Callable[[np.ndarray], float], at: np.ndarray) -> tuple[float, float]:
    """Standard errors from the curvature of a log-likelihood; infinite where it is flat."""
    step = 1e-3
    ways = np.eye(2) * step

    def second(i: int, j: int) -> float:
        a, b = ways[i], ways[j]
        return (cost(at + a + b) - cost(at + a - b) - cost(at - a + b) + cost(at - a - b)) / (
            4 * step**2
        )

    curvature = np.array([[second(0, 0), second(0, 1)], [second(0, 1), second(1, 1)]])
    if np.linalg.det(curvature) <= 0 or curvature[0, 0] <= 0:
        return math.inf, math.inf
    spread = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return float(spread[0]), float(spread[1])


def _normal(name: str, claimed: float, value: float, error: float, significance: float) -> Finding:
    reach = float(ndtri(1 - significance / 2)) * error
    p_value = 2 * float(norm.sf(abs(value - claimed) / error))
    return Finding(name, claimed, Measured(value, value - reach, value + reach), p_value)


def _ends(significance: float) -> tuple[float, float]:
    """The two parts of a distribution that bound an interval, the upper one first."""
    return 1 - significance / 2, significance / 2


def _two_sided(cdf: Callable[..., Any], value: float, *degrees: float) -> float:
    below = float(cdf(value, *degrees))
    return min(1.0, 2 * min(below, 1 - below))
