"""Certified values against one another and against exact ones, on seeded random points.

    python -m benchmarks.accountants          prints the counts; some minutes

Counts what must never happen: a PLD above a Rényi bound or above PRV's, a certified value below an
exact one, a composition below dp-accounting's at the same interval by more than rounding, a
calibration over its budget, a certified ε that rises with δ.
"""

import math
from collections.abc import Iterator

import numpy as np

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
        "PLD below dp-accounting at one interval": below_theirs,
        "largest excess over it, %": 100 * excess_theirs,
        "calibrations over budget": over_budget(POINTS),
        "ε that rises with δ": rising_with_delta(POINTS),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:g}")
