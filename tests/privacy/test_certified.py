"""Certified values at the ends of what is accounted, held to δ of more digits than a float has."""

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import accountants
from workbench import privacy
from workbench.privacy import _composition
from workbench.privacy._losses import StepCurve, StepLoss

_UNIT = 2.0**-53


def shortest_falls(sigma: float, rate: float, log_tail: float, *, added: bool) -> float:
    """By how many u of itself δ falls short at most, over what `StepLoss.rounding` allows."""
    curve = StepCurve(sigma, rate)
    low, high = curve.reach(log_tail)
    low, high = (-high, -low) if added else (low, high)
    interval = 2.0 ** math.ceil(math.log2((high - low) / 500))
    rounding = curve.on_grid(interval, log_tail, added=added).rounding
    losses = np.linspace(low, high, 7)
    worst = 0.0
    for loss, found in zip(losses.tolist(), curve.delta(losses, added=added), strict=True):
        exact = accountants.exact_delta(loss, sigma, rate, added=added)
        if exact > mpmath.mpf("1e-300"):
            worst = max(worst, float((exact - float(found)) / exact) / _UNIT / rounding)
    return worst


@pytest.mark.parametrize("added", [False, True])
def test_one_step_is_off_by_no_more_of_itself_than_is_allowed_for(added: bool) -> None:
    """Also where σ is large, so that Φ(−x₀) and e^ε·Φ(−x₁) nearly cancel, and where q is near 1."""
    random = np.random.default_rng(3)
    for row in range(40):
        sigma = 10 ** random.uniform(-2, 9 if row % 2 else 1)
        rate = 10 ** random.uniform(-9, 0) if row % 3 else 1 - 10 ** random.uniform(-15, -1)
        log_tail = -(10 ** random.uniform(0.6, 2.8))
        assert shortest_falls(sigma, rate, log_tail, added=added) <= 1


def test_adding_a_record_to_nearly_full_batches_keeps_its_digits() -> None:
    """As 1 − (1−q)·e^ε from two terms near e^ε it was 0 at ε of 20 and above; q = 1 − 1e-10."""
    curve, rate = StepCurve(0.2, 1 - 1e-10), 1 - 1e-10
    for epsilon in (10.0, 20.0, 22.5):
        exact = float(accountants.exact_delta(epsilon, 0.2, rate, added=True))
        found = float(curve.delta(np.array([epsilon]), added=True)[0])
        assert exact * (1 - 1e-13) <= found <= exact * (1 + 1e-6)
    full = float(accountants.exact_delta(40.0, 0.1, 1.0, added=True))
    assert StepCurve(0.1, 1.0).delta(np.array([40.0]), added=True) == pytest.approx([full])


def test_never_below_the_exact_value_at_the_ends_of_what_is_accounted() -> None:
    assert accountants.below_exact_at_extremes(24) == 0


def test_unlike_steps_are_never_below_a_lower_bound() -> None:
    assert accountants.below_lower_bound(6) == 0


@pytest.mark.parametrize(
    ("sigma", "rate", "delta"),
    [
        (3942887.738995466, 2.676629878923246e-11, 6.237484735016633e-236),  # raised a TypeError
        (1e9, 1e-12, 1e-100),
        (1e9, 1.0, 1e-12),
        (1e6, 0.3, 1e-30),
        (1000.0, 1e-20, 1e-40),
    ],
)
def test_losses_far_below_one_are_resolved(sigma: float, rate: float, delta: float) -> None:
    """ε near 1e-20, which was stated 1e6 times too large where sums of size 1 were subtracted."""
    epsilon = privacy.epsilon(sigma, rate, 1, delta)
    assert accountants.exact_delta(epsilon, sigma, rate) <= delta
    assert accountants.exact_delta(epsilon / 1.03, sigma, rate) > delta


@pytest.mark.parametrize("sigma", [1.7e8, 7e8, 9e8, 1e9])
def test_a_delta_just_below_the_total_variation_needs_an_epsilon(sigma: float) -> None:
    """Φ(1/2σ) − Φ(−1/2σ) is up to 3e-8 of itself too small there, and ε was stated as 0."""
    total = float(accountants.exact_delta(0.0, sigma, 1.0))
    for short in (3e-9, 2e-8):
        assert privacy.epsilon(sigma, 1.0, 1, total * (1 - short)) > 0
    assert privacy.epsilon(sigma, 1.0, 1, total * (1 + 1e-8)) == 0


@pytest.mark.parametrize(("rate", "delta"), [(1e-300, 1e-305), (1e-310, 5e-324), (1e-200, 1e-210)])
def test_rates_whose_square_is_no_float_are_accounted(rate: float, delta: float) -> None:
    assert 0 < privacy.epsilon(1000.0, rate, 1, delta) < 1


@pytest.mark.parametrize("sigma", [0.0101, 0.012, 0.0199])
def test_a_noise_multiplier_near_the_least_that_is_accounted_is_found(sigma: float) -> None:
    """The search never ended between 0.01 and 0.0156."""
    spent = privacy.epsilon(sigma, 1.0, 1, 1e-5)
    found = privacy.noise_multiplier(spent, 1.0, 1, 1e-5)
    assert privacy.epsilon(found, 1.0, 1, 1e-5) <= spent
    assert found <= sigma * 1.002


@pytest.mark.parametrize("parts", [1, 60])
def test_steps_in_many_parts_are_bounded_as_closely_as_in_one(parts: int) -> None:
    """A loss of two intervals or nothing, whose transform has phases up to half a turn a step."""
    steps = 60 * 10**5
    rate, delta = 5.0 / steps, 1e-9
    step = StepLoss(0, np.log([1 - rate, 1e-300, rate]), 0.0, 0.0)
    composed = _composition.composed_for_delta(
        [(step, steps // parts)] * parts, 1.0, delta, largest=1 << 16
    )
    epsilon = composed.epsilon(delta)
    hits = np.arange(200)
    true = float(binom.pmf(hits, steps, rate) @ np.maximum(0, -np.expm1(epsilon - 2.0 * hits)))
    assert 0.99 * delta <= true <= delta * (1 + 1e-9)


def test_a_ceiling_at_rates_below_1e_minus_304_is_not_below_the_curve() -> None:
    """Where e^ε was cut at e^700: with σ = 0.01 nothing is hidden at any rate above 0."""
    assert privacy.mechanism_ceiling([1e-306, 1e-310], 0.01, 1.0, 1) == pytest.approx([1.0, 1.0])
