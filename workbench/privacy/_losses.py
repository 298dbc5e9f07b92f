"""One step's privacy loss on a grid, never better than the mechanism: connect the dots.

The pair is P = (1−q)·N(0, σ²) + q·N(1, σ²) against Q = N(0, σ²), in which a record is removed. Its
δ(ε) is q·δ_G(ε₀) with e^ε − 1 = q·(e^ε₀ − 1) and δ_G the plain Gaussian's (Balle, Barthe & Gaboardi
2018, Theorem 8; Balle & Wang 2018, Theorem 8). Taking it relative to q keeps it exact where q is
tiny.

Joining the points of δ(ε) at whole multiples of an interval by straight lines in e^ε gives a curve
that is nowhere below δ(ε), and it is the curve of a loss on those multiples (Doroshenko et al.
2022, Algorithm 1). dp-accounting's ``from_gaussian_mechanism`` and
``from_truncated_subsampled_gaussian_mechanism`` give the same masses; the tests compare them.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr, ndtri_exp
from scipy.stats import binom

from workbench.config import Sampling

_UNIT = 2.0**-53
_LARGEST_LOSS = 1e100  # whose square is a float
_NODES, _WEIGHTS = (of.tolist() for of in np.polynomial.legendre.leggauss(7))
_MEDIAN = math.log(0.4)  # a tail is never cut nearer to the middle than here


@dataclass(frozen=True)
class Batches:
    """How batches are drawn, with the sizes that only some schemes need."""

    sampling: Sampling = "poisson"
    dataset_size: int | None = None
    truncated_batch_size: int | None = None


POISSON = Batches()


@dataclass(frozen=True)
class StepLoss:
    """One step's loss on whole multiples of an interval, in the direction of one neighbour."""

    first: int  # the least loss, in intervals
    log_mass: np.ndarray  # (losses,) log of the probability under P
    infinite: float  # the probability under P of an infinite loss
    rounding: float  # ρ: δ falls short by at most this many 2⁻⁵³ of itself


@dataclass(frozen=True)
class StepCurve:
    """δ(ε) of one step of σ and q, in the direction in which a record is removed.

    With probability ``replaced`` the batch is full, so that another record leaves when this one
    comes: a pair of N(1, σ²) and N(−1, σ²), each with probability ``replaced_rate``.
    """

    noise_multiplier: float
    sample_rate: float
    replaced: float = 0.0
    replaced_rate: float = 0.0

    @classmethod
    def of(cls, noise_multiplier: float, sample_rate: float, batches: Batches) -> "StepCurve":
        """The step under a sampling scheme; truncated batches as dp-accounting bounds them."""
        if batches.sampling != "truncated_poisson":
            return cls(noise_multiplier, sample_rate)
        size, most = batches.dataset_size, batches.truncated_batch_size
        assert size is not None
        assert most is not None
        full = float(binom.sf(most - 1, size - 1, sample_rate))
        if full == 0:
            return cls(noise_multiplier, sample_rate)
        rate = float(binom.sf(most, size, sample_rate)) * most / full / size
        return cls(noise_multiplier, sample_rate, full, min(rate, 1.0))

    def delta(self, epsilon: np.ndarray, *, added: bool = False) -> np.ndarray:
        """δ at each ε of either sign, shape as ``epsilon``; with ``added`` the other direction."""
        one = _added if added else _removed
        single = one(epsilon, self.noise_multiplier, self.sample_rate)
        if not self.replaced:
            return single
        exchanged = _exchanged(epsilon, self.noise_multiplier / 2, self.replaced_rate)
        return (1 - self.replaced) * single + self.replaced * exchanged

    def reach(self, log_tail: float) -> tuple[float, float]:
        """The losses between which all but exp(``log_tail``) of the probability lies."""
        low, high = _removed_reach(self.noise_multiplier, self.sample_rate, log_tail)
        if not (self.replaced and self.replaced_rate):
            return low, high
        widest = _exchanged_reach(self.noise_multiplier / 2, self.replaced_rate, log_tail)
        return min(low, -widest), max(high, widest)

    @property
    def symmetric(self) -> bool:
        """Whether both directions are alike."""
        return self.sample_rate == 1 and not self.replaced

    def on_grid(self, interval: float, log_tail: float, *, added: bool = False) -> StepLoss:
        """The loss on multiples of ``interval``; what lies beyond the `reach` counts as infinite.

        Where the masses are as small as their rounding, the probability of at least a loss is taken
        as the most that any larger loss has, so that rounding adds to ε and never takes from it.
        """
        low, high = self.reach(log_tail)
        low, high = (-high, -low) if added else (low, high)
        first = math.floor(low / interval)
        last = max(math.ceil(high / interval), first + 1)
        delta = self.delta(interval * np.arange(first, last + 1), added=added)
        # P(loss ≥ l) of the line through (e^l', δ(l')) and (e^l, δ(l)), l' the multiple before l.
        at_least = delta[1:] - np.diff(delta) / -math.expm1(-interval)
        at_least = np.concatenate(([1.0], at_least, delta[-1:]))
        at_least = np.maximum.accumulate(at_least[::-1])[::-1]
        with np.errstate(divide="ignore"):
            log_mass = np.log(-np.diff(at_least))
        return StepLoss(first, log_mass, float(delta[-1]), self._rounding(log_tail, log_mass))

    def _rounding(self, log_tail: float, log_mass: np.ndarray) -> float:
        """ρ of δ within the `reach`, in which |x| ≤ z (see `gaussian`).

        Rounding of x takes up to z² of φ(x), of 1 − x·m(x) and of what cancels in m(x₀) − m(x₁).
        That of ε₀, whose terms are up to |log q| + 40, moves δ by up to 1 + z·σ of it, and matters
        only where |ε₀| is not small, so that σ is at most about 2z. Each mass is kept as its
        logarithm, whose rounding takes its size.
        """
        z = abs(float(ndtri_exp(min(log_tail, _MEDIAN)))) + 2 / self.noise_multiplier
        turns = 1 + z * min(self.noise_multiplier, 2 * z)
        logs = -float(np.min(log_mass, where=np.isfinite(log_mass), initial=0.0))
        return 64 + 32 * z**2 + 4 * (abs(math.log(self.sample_rate)) + 40) * turns + 2 * logs


def _removed(epsilon: np.ndarray, sigma: float, q: float) -> np.ndarray:
    """δ(ε) of P = (1−q)·N(0, σ²) + q·N(1, σ²) against Q = N(0, σ²): q·δ_G(ε₀)."""
    plain = _plain(epsilon, q, _beyond(epsilon, q))
    with np.errstate(over="ignore"):
        nothing = np.clip(-np.expm1(epsilon), 0, 1)  # below log(1 − q), which no outcome's loss is
    return np.where(np.isfinite(plain), q * gaussian(plain, sigma), nothing)


def _added(epsilon: np.ndarray, sigma: float, q: float) -> np.ndarray:
    """δ(ε) of Q against P, whose loss ends at −log(1 − q): (1 − (1−q)·e^ε)·δ_G(−ε₀(−ε)).

    It rises with its first factor, whose rounding near the end is added to it.
    """
    factor = _beyond(-epsilon, q) + 4 * _UNIT * (np.abs(epsilon) + q)
    plain = _plain(-epsilon, q, factor)
    return np.where(np.isfinite(plain), np.clip(factor, 0, 1) * gaussian(-plain, sigma), 0.0)


def _beyond(epsilon: np.ndarray, q: float) -> np.ndarray:
    """1 − (1−q)·e^(−ε), from one exponent: as a difference it is lost where ε is far below 0."""
    least = math.log1p(-q) if q < 1 else -math.inf
    with np.errstate(over="ignore"):
        return -np.expm1(least - epsilon)


def _plain(epsilon: np.ndarray, q: float, beyond: np.ndarray) -> np.ndarray:
    """ε₀ with e^ε − 1 = q·(e^ε₀ − 1); −∞ or NaN at and below log(1 − q).

    e^ε₀ is 1 + (e^ε − 1)/q, which keeps all digits where ε₀ is near 0, and e^ε·`_beyond`/q, which
    keeps them elsewhere.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        more = np.expm1(epsilon) / q
        return np.where(np.abs(more) < 0.5, np.log1p(more), epsilon - math.log(q) + np.log(beyond))


def gaussian(epsilon: np.ndarray, sigma: float) -> np.ndarray:
    """δ_G(ε) = Φ(−x₀) − e^ε·Φ(−x₁) at finite ε, x₀ and x₁ = σ·ε ∓ 1/2σ, to nearly all digits.

    The two terms nearly cancel where σ is large. With the Mills ratio m = (1 − Φ)/φ, whose
    derivative is x·m(x) − 1, they are φ(x₀)·(m(x₀) − m(x₁)), the integral of φ(x₀)·(1 − x·m(x))
    from x₀ to x₁: 7 points of Gauss and Legendre are exact to 1e-17 over a length of 1/2. Below 0,
    δ_G(ε) = 1 − e^ε + e^ε·δ_G(−ε), a sum of what is positive.
    """
    size = np.minimum(np.abs(epsilon), _LARGEST_LOSS)
    middle, half = sigma * size, 0.5 / sigma
    low, high = middle - half, middle + half
    with np.errstate(under="ignore", over="ignore"):
        density = np.exp(-(low**2) / 2) / math.sqrt(2 * math.pi)
        if half < 0.25:
            value = sum(
                weight * half * (1 - x * _mills(x))
                for weight, x in zip(_WEIGHTS, [middle + half * n for n in _NODES], strict=True)
            )
            above = density * value
        else:
            tails = ndtr(-low) - np.exp(size + log_ndtr(-high))
            above = np.where(low < 0, tails, density * (_mills(np.maximum(low, 0)) - _mills(high)))
        below = -np.expm1(-size) + np.exp(-size) * above
    return np.clip(np.where(epsilon < 0, below, above), 0, 1)


def _mills(x: np.ndarray) -> np.ndarray:
    """(1 − Φ)/φ of the standard Gaussian."""
    return math.sqrt(math.pi / 2) * erfcx(x / math.sqrt(2))


def _removed_reach(sigma: float, q: float, log_tail: float) -> tuple[float, float]:
    widest = (-float(ndtri_exp(min(log_tail - math.log(q), _MEDIAN))) + 0.5 / sigma) / sigma
    lowest = (float(ndtri_exp(min(log_tail, _MEDIAN))) - 0.5 / sigma) / sigma
    return _sampled(lowest, q), _sampled(widest, q)


def _sampled(plain: float, q: float) -> float:
    """The loss log(1 + q·(e^plain − 1)) of an outcome whose plain Gaussian loss is ``plain``."""
    if q == 1:
        return plain
    if plain < 1:
        return math.log1p(q * math.expm1(plain))
    return plain + math.log(q) + math.log1p((1 - q) / q * math.exp(-plain))


def _exchanged(epsilon: np.ndarray, sigma: float, q: float) -> np.ndarray:
    """δ(ε) of (1−q)·N(0, σ²) + q·N(1, σ²) against (1−q)·N(0, σ²) + q·N(−1, σ²).

    The loss exceeds ε beyond x = σ²·(ε/2 + asinh(sinh(ε/2)/a)), a = q·exp(−1/2σ²)/(1−q).
    """
    if q == 0:  # both are N(0, σ²)
        return np.clip(-np.expm1(epsilon), 0, 1)
    half = np.abs(epsilon) / 2
    if q == 1:
        x = sigma**2 * half
    else:
        log_a = math.log(q) - math.log1p(-q) - 0.5 / sigma**2
        with np.errstate(divide="ignore"):
            sinh = half + np.log1p(-np.exp(-2 * half)) - math.log(2) - log_a
        x = sigma**2 * (half + np.logaddexp(sinh, np.logaddexp(0, 2 * sinh) / 2))
    x = np.copysign(x, epsilon)
    log_rates = (math.log1p(-q) if q < 1 else -math.inf, math.log(q))
    upper = np.logaddexp(
        log_rates[0] + log_ndtr(-x / sigma), log_rates[1] + log_ndtr((1 - x) / sigma)
    )
    lower = np.logaddexp(
        log_rates[0] + log_ndtr(-x / sigma), log_rates[1] + log_ndtr((-1 - x) / sigma)
    )
    # The two may nearly cancel; what rounding takes from them is added.
    rounding = 64 + 32 * (np.abs(x) / sigma + 1 / sigma) ** 2 + 4 * abs(math.log(q))
    return np.clip((1 + rounding * _UNIT) * np.exp(upper) - np.exp(epsilon + lower), 0, 1)


def _exchanged_reach(sigma: float, q: float, log_tail: float) -> float:
    x = 1 - sigma * float(ndtri_exp(min(log_tail, _MEDIAN)))
    log_rest = math.log1p(-q) if q < 1 else -math.inf
    upper = np.logaddexp(log_rest, math.log(q) + (2 * x - 1) / (2 * sigma**2))
    lower = np.logaddexp(log_rest, math.log(q) + (-2 * x - 1) / (2 * sigma**2))
    return float(upper - lower)
