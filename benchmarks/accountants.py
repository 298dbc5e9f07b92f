"""Certified values against one another and against exact ones, on seeded random points.

    python -m benchmarks.accountants          prints the counts; some minutes

Counts what must never happen: a PLD above a Rényi bound or above PRV's, a certified value below an
exact one or a lower bound, a composition below dp-accounting's at the same interval by more than
rounding, a calibration over its budget, a certified ε that rises with δ.
"""

import math
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
from scipy.signal import fftconvolve
from scipy.special import ndtr

from workbench import privacy
from workbench.errors import InputError
from workbench.privacy import pld
from workbench.privacy._renyi import quiet
from workbench.privacy._saddle import Cells, closed_form

POINTS = 300
SEED = 20261


def points(count: int, *, steps: float = 1e6, sigma: float = 0.3) -> Iterator[tuple]:
    """(σ, q, T, δ), log-uniform; the same for the same ``count``."""
    random = np.random.default_rng(SEED)
    low, high = np.log([sigma, 1e-5, 1, 1e-12]), np.log([20, 1, steps, 1e-3])
    for s, q, t, d in np.exp(random.uniform(low, high, size=(count, 4))).tolist():
        yield s, q, round(t), d


def above_renyi(count: int) -> int:
    """Points at which PLD exceeds RDP by more than what it settles to."""
    return sum(
        privacy.epsilon(*point) > 1.005 * privacy.epsilon(*point, accountant="rdp") + 1e-9
        for point in points(count)
    )


def above_prv(count: int) -> tuple[int, int]:
    """Points at which PLD exceeds PRV, whose bound includes its error; and those PRV answered."""
    answered = exceeded = 0
    for point in points(count, steps=1000, sigma=0.7):
        try:
            bound = privacy.epsilon(*point, accountant="prv")
        except InputError:
            continue
        answered += 1
        exceeded += privacy.epsilon(*point) > 1.005 * bound
    return exceeded, answered


def off_exact(count: int) -> tuple[int, float]:
    """Points with q = 1 or one step below the exact ε; the largest excess, of ε or of 0.01."""
    below, excess = 0, 0.0
    for row, (sigma, rate, steps, delta) in enumerate(points(count)):
        case = (sigma, 1.0, steps, delta) if row % 2 else (sigma, rate, 1, delta)
        exact = exact_epsilon(*case)
        value = privacy.epsilon(*case)
        below += value < exact * (1 - 1e-12)
        excess = max(excess, (value - exact) / max(exact, 0.01))
    return below, excess


def exact_epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    """ε in closed form where q = 1 or there is one step (both directions: removal is larger)."""
    cells = Cells(*(np.array([x], dtype=float) for x in (sigma, rate, steps, math.log(delta))))
    return float(closed_form(cells)[0])


def exact_delta(epsilon: float, sigma: float, rate: float, *, added: bool = False) -> Any:
    """δ of one step to more digits than a float has, in closed form (see `privacy._losses`)."""
    with mpmath.workdps(80):
        e, s, q = mpmath.mpf(epsilon), mpmath.mpf(sigma), mpmath.mpf(rate)
        way = -e if added else e
        odds = 1 + mpmath.expm1(way) / q if rate < 1 else mpmath.exp(way)
        if odds <= 0:
            return mpmath.mpf(0) if added else -mpmath.expm1(e)
        plain = -mpmath.log(odds) if added else mpmath.log(odds)
        tails = [mpmath.erfc((s * plain + side / (2 * s)) / mpmath.sqrt(2)) / 2 for side in (-1, 1)]
        plain_delta = tails[0] - mpmath.exp(plain) * tails[1]
        return q * (odds * mpmath.exp(e) if added else 1) * plain_delta


def extreme_points(count: int) -> Iterator[tuple[float, float, int, float]]:
    """(σ, q, T, δ) from end to end of what is accounted; each with q = 1 or one step."""
    random = np.random.default_rng(SEED)
    for row in range(count):
        sigma = 10 ** random.uniform(-2, 9 if row % 2 else 3)
        rate = 10 ** random.uniform(-12, 0)
        rate = 1 - 10 ** random.uniform(-15, -0.1) if row % 3 == 0 else rate
        delta = 10 ** random.uniform(-280 if row % 2 else -14, -0.01)
        steps = round(10 ** random.uniform(0, 9))
        yield (sigma, 1.0, steps, delta) if row % 4 == 3 else (sigma, rate, 1, delta)


def below_exact_at_extremes(count: int) -> int:
    """Extreme points whose certified ε has an exact δ above the one asked for."""
    below = 0
    for sigma, rate, steps, delta in extreme_points(count):
        epsilon = privacy.epsilon(sigma, rate, steps, delta)
        wide = sigma / math.sqrt(steps)  # all records in every step: one Gaussian
        below += any(exact_delta(epsilon, wide, rate, added=way) > delta for way in (False, True))
    return below


def below_lower_bound(count: int) -> int:
    """Histories of two or three unlike steps whose δ, all losses rounded down, is above theirs."""
    random = np.random.default_rng(SEED)
    below = 0
    for _ in range(count):
        history = [
            (10 ** random.uniform(-0.4, 1.2), min(1.0, 10 ** random.uniform(-3, 0.05)), 1)
            for _ in range(random.integers(2, 4))
        ]
        delta = 10 ** random.uniform(-9, -0.7)
        epsilon = privacy.compose(history, delta)
        below += any(_least_delta(history, epsilon, added=added) > delta for added in (False, True))
    return below


def _least_delta(history: list, epsilon: float, *, added: bool) -> float:
    """δ of single steps with each loss rounded down to a grid of 2¹⁵ losses either side of 0."""
    most = 1 << 15
    interval = (epsilon + sum(8 / sigma + sigma**-2 for sigma, _, _ in history)) / most
    index, masses = np.arange(-most, most + 1), np.ones(1)
    for sigma, rate, _ in history:
        with np.errstate(all="ignore"):
            losses = interval * (-index if added else index)
            x = sigma**2 * np.log1p(np.expm1(losses) / rate) + 0.5
        x = np.where(np.isnan(x), -np.inf, x)
        removed = (1 - rate) * ndtr(-x / sigma) + rate * ndtr((1 - x) / sigma)
        at_least = ndtr(x / sigma) if added else removed
        masses = fftconvolve(masses, -np.diff(at_least, append=0.0))
    losses = interval * (np.arange(len(masses)) - most * len(history))
    beyond = losses > epsilon
    return float(-np.expm1(epsilon - losses[beyond]) @ masses[beyond]) - 1e-14  # of transforms


def below_dp_accounting(count: int) -> tuple[int, float]:
    """Compositions below dp-accounting's at one interval by more than its rounding; the excess."""
    from dp_accounting.pld import privacy_loss_distribution

    below, excess = 0, 0.0
    for sigma, rate, steps, delta in points(count, steps=2000, sigma=0.5):
        interval = 2.0 ** pld._mechanism([(sigma, rate, steps)], delta, pld.POISSON).exponent
        with quiet():
            theirs = privacy_loss_distribution.from_gaussian_mechanism(
                sigma, sampling_prob=rate, value_discretization_interval=interval
            ).self_compose(steps)
            hidden = 1000 * steps * 2.0**-53 + 1e-14  # of their δ, and what they cut off
            expected = theirs.get_epsilon_for_delta(delta + hidden)
            value = max(
                pld.loss_distribution(
                    [(sigma, rate, steps)], interval=interval, delta=delta, added=added
                ).epsilon(delta)
                for added in (False, True)
            )
            below += value < expected * (1 - 1e-6)
            if hidden < 1e-4 * delta:
                excess = max(excess, (value - expected) / max(expected, 0.01))
    return below, excess


def over_budget(count: int) -> int:
    """Calibrations of σ, and of steps, whose certified ε exceeds the target."""
    over = 0
    for row, (sigma, rate, steps, delta) in enumerate(points(count, steps=1e5)):
        target = sigma  # any positive number: 0.3 to 20
        if row % 2:
            found = privacy.noise_multiplier(target, rate, steps, delta)
            over += privacy.epsilon(found, rate, steps, delta) > target
        else:
            try:
                most = privacy.max_steps(target, sigma, rate, delta)
            except InputError:  # 1e8 steps stay within
                continue
            over += most > 0 and privacy.epsilon(sigma, rate, most, delta) > target
    return over


def rising_with_delta(count: int) -> int:
    """Points at which ε at a slightly larger δ is larger."""
    rising = 0
    for sigma, rate, steps, delta in points(count):
        value = privacy.epsilon(sigma, rate, steps, delta)
        for factor in (1.00009, 1.01, 1.5, 3.0):
            larger = privacy.epsilon(sigma, rate, steps, min(delta * factor, 0.5))
            rising += larger > value
            value = min(value, larger)
    return rising


def preview_misses(count: int) -> int:
    """Previews off by more than they promise."""
    missed = 0
    for point in points(count):
        certified, preview = privacy.epsilon(*point), float(privacy.epsilon_surface(*point))
        missed += abs(preview - certified) > max(0.01 * certified, 0.01)
    return missed


def main() -> dict[str, float]:
    """Every count over `POINTS` points."""
    exceeded, answered = above_prv(POINTS)
    below, excess = off_exact(POINTS)
    below_theirs, excess_theirs = below_dp_accounting(POINTS)
    return {
        "points": POINTS,
        "previews off by more than promised": preview_misses(POINTS),
        "PLD above RDP": above_renyi(POINTS),
        "PLD above PRV": exceeded,
        "points that PRV answered": answered,
        "PLD below the exact value": below,
        "largest excess over the exact value, %": 100 * excess,
        "PLD below the exact value at extremes": below_exact_at_extremes(POINTS),
        "PLD of unlike steps below a lower bound": below_lower_bound(POINTS),
        "PLD below dp-accounting at one interval": below_theirs,
        "largest excess over it, %": 100 * excess_theirs,
        "calibrations over budget": over_budget(POINTS),
        "ε that rises with δ": rising_with_delta(POINTS),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:g}")
