"""The composed loss: equal to dp-accounting's where that is exact, and never below the truth."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as google
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr
from scipy.stats import binom

from benchmarks import accountants
from workbench import privacy
from workbench.privacy import _composition, _losses, calibration, pld
from workbench.privacy._losses import POISSON, Batches, StepCurve, StepLoss

TRUNCATED = Batches("truncated_poisson", dataset_size=1000, truncated_batch_size=80)


def masses(loss: StepLoss, first: int, count: int) -> np.ndarray:
    """The masses from ``first`` on, zero where there is none."""
    found = np.zeros(count)
    for place, mass in enumerate(np.exp(loss.log_mass).tolist(), start=loss.first - first):
        if 0 <= place < count:
            found[place] = mass
    return found


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("sigma", "rate", "interval", "batches"),
    [
        (1.0, 0.01, 1e-3, POISSON),
        (0.5, 1e-3, 1e-3, POISSON),
        (2.0, 1.0, 1e-3, POISSON),
        (5.0, 0.9, 1e-3, POISSON),
        (0.3, 1e-5, 1e-2, POISSON),
        (0.6, 0.1, 1e-2, TRUNCATED),
        (3.0, 0.09, 1e-3, TRUNCATED),
    ],
)
def test_one_step_has_the_masses_of_dp_accounting(
    sigma: float, rate: float, interval: float, batches: Batches, added: bool
) -> None:
    if batches is POISSON:
        theirs = google.from_gaussian_mechanism(
            sigma, sampling_prob=rate, value_discretization_interval=interval
        )
    else:
        theirs = google.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=1000,
            sampling_probability=rate,
            truncated_batch_size=80,
            noise_multiplier=sigma,
            value_discretization_interval=interval,
        )
    expected = (theirs._pmf_add if added else theirs._pmf_remove).to_dense_pmf()
    ours = StepCurve.of(sigma, rate, batches).on_grid(interval, -50.0, added=added)
    found = masses(ours, expected._lower_loss, expected.size)
    # Both round: a mass is a difference of numbers of size 1, over the interval.
    np.testing.assert_allclose(found, expected._probs, atol=1e-15 / interval * 10)
    assert np.exp(ours.log_mass).sum() + ours.infinite == pytest.approx(1, abs=1e-10)


def composed_exactly(mass: np.ndarray, steps: int) -> np.ndarray:
    """The masses of so many steps together, summed directly in long double."""
    result = np.array([1.0], dtype=np.longdouble)
    for _ in range(steps):
        result = np.convolve(result, mass.astype(np.longdouble))
    return result


@given(
    st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=12),
    st.integers(1, 40),
    st.integers(-5, 5),
    st.floats(-9, -2),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_every_composed_mass_is_bounded_from_above_and_closely(
    weights: list[float], steps: int, first: int, log10_delta: float
) -> None:
    mass = np.array(weights) / sum(weights)
    parts = [(StepLoss(first, np.log(mass), 0.0, 0.0), steps)]
    exact = composed_exactly(mass, steps)
    losses = 0.5 * (first * steps + np.arange(len(exact)))
    delta = 10**log10_delta
    composed = _composition.composed_for_delta(parts, 0.5, delta, largest=1 << 16)
    for epsilon in np.linspace(max(composed.start, losses[0]), losses[-1], 9).tolist():
        true = float(np.sum(exact * np.maximum(0, -np.expm1(epsilon - losses))))
        found = float(composed.delta(np.array([epsilon]))[0])
        assert found >= min(true, 1.0) * (1 - 1e-12)
    epsilon = composed.epsilon(delta)
    true = float(np.sum(exact * np.maximum(0, -np.expm1(epsilon - losses))))
    # It is met; and closely, unless ε ends at 0 or where the losses that are followed begin.
    assert true <= delta * (1 + 1e-9)
    assert true >= 0.995 * delta or epsilon <= max(composed.start, 0.0) + 1e-6


@pytest.mark.parametrize("steps", [10**3, 10**6, 10**9])
def test_a_loss_of_one_or_nothing_is_a_binomial_however_many_steps(steps: int) -> None:
    """Exact to the last digits: δ(ε) of so many coins, near and far from where it is composed."""
    rate, delta = 5.0 / steps, 1e-11
    parts = [(StepLoss(0, np.log([1 - rate, rate]), 0.0, 0.0), steps)]
    composed = _composition.composed_for_delta(parts, 1.0, delta, largest=1 << 16)
    epsilon = composed.epsilon(delta)
    hits = np.arange(200)
    true = float(np.sum(binom.pmf(hits, steps, rate) * np.maximum(0, -np.expm1(epsilon - hits))))
    assert 0.999 * delta <= true <= delta * (1 + 1e-9)


def exact_gaussian_delta(mu: float, epsilon: float) -> float:
    first = log_ndtr(mu / 2 - epsilon / mu)
    return float(math.exp(first) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"),
    [
        (100.0, 10**4, 1e-12),
        (10_000.0, 10**6, 1e-10),
        (1.0, 1, 1e-5),
        (30.0, 10**9, 1e-9),
        (0.3, 200, 1e-6),
        (5.0, 1000, 1e-200),
    ],
)
def test_full_batches_are_one_gaussian(sigma: float, steps: int, delta: float) -> None:
    """Balle & Wang 2018, theorem 8, at δ far below what rounding alone would hide."""
    epsilon = privacy.epsilon(sigma, 1.0, steps, delta)
    exact = accountants.exact_epsilon(sigma, 1.0, steps, delta)
    assert exact <= epsilon <= 1.006 * exact


def test_one_step_is_exact_in_both_directions() -> None:
    for sigma, rate, steps, delta in accountants.points(40):
        del steps
        cell = privacy.epsilon(sigma, rate, 1, delta)
        removed = StepCurve(sigma, rate).delta(np.array([cell]))
        added = StepCurve(sigma, rate).delta(np.array([cell]), added=True)
        assert max(removed[0], added[0]) <= delta * (1 + 1e-9)
        assert cell <= 1.006 * accountants.exact_epsilon(sigma, rate, 1, delta) + 1e-9


class TestAgainstOneAnother:
    """A seeded part of what ``python -m benchmarks.accountants`` counts over 300 points."""

    def test_never_below_dp_accounting_at_the_same_interval_and_hardly_above(self) -> None:
        below, excess = accountants.below_dp_accounting(25)
        assert below == 0
        assert excess <= 1e-4

    def test_never_below_the_exact_value(self) -> None:
        below, excess = accountants.off_exact(60)
        assert below == 0
        assert excess <= 0.006

    def test_never_above_renyi(self) -> None:
        assert accountants.above_renyi(3) == 0

    def test_never_above_prv(self) -> None:
        assert accountants.above_prv(3) == (0, 2)

    def test_never_rising_with_delta(self) -> None:
        assert accountants.rising_with_delta(12) == 0

    def test_the_preview_keeps_its_promise(self) -> None:
        assert accountants.preview_misses(60) == 0

    def test_calibrations_keep_within_the_budget(self) -> None:
        assert accountants.over_budget(2) == 0


def test_epsilon_does_not_jump_where_delta_nears_rounding() -> None:
    """At δ = steps·2⁻⁵³ a Rényi bound used to take over: 3.682 became 4.977."""
    sigma, rate, steps = 0.8, 1e-3, 100_000
    deltas = steps * 2.0**-53 * np.geomspace(0.2, 10, 25)
    found = np.array([privacy.epsilon(sigma, rate, steps, delta) for delta in deltas.tolist()])
    assert np.all(np.diff(found) <= 0)
    assert np.all(found[:-1] / found[1:] <= 1.03)


def points_transformed(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Counts the points of all transforms from here on."""
    counted = [0]
    real = _composition.fft.rfft

    def counting(values: np.ndarray) -> np.ndarray:
        counted[0] += len(values)
        return real(values)

    monkeypatch.setattr(_composition.fft, "rfft", counting)
    while True:
        yield counted[0]


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(1.0, 1e-3, 10**6), (1.0, 1e-3, 10**8), (10.0, 1e-6, 10**7), (0.614, 4.08e-5, 10**8)],
)
def test_long_histories_take_few_points(
    sigma: float, rate: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not minutes: a transform of 1e7 points takes about a second."""
    counter = points_transformed(monkeypatch)
    next(counter)
    epsilon = privacy.epsilon(sigma, rate, steps, 1e-5)
    assert next(counter) <= 12_000_000
    assert 0 < epsilon <= privacy.epsilon(sigma, rate, steps, 1e-5, accountant="rdp")


def test_max_steps_of_a_long_run_asks_the_accountant_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [0]
    real = calibration.epsilon

    def counting(*arguments: float, **options: object) -> float:
        asked[0] += 1
        return real(*arguments, **options)  # pyright: ignore

    monkeypatch.setattr(calibration, "epsilon", counting)
    steps = privacy.max_steps(2.0, 1.0, 1e-3, 1e-6)
    assert asked[0] <= 24
    assert steps > 10**5
    assert privacy.epsilon(1.0, 1e-3, steps, 1e-6) <= 2.0
    assert privacy.epsilon(1.0, 1e-3, steps + 1, 1e-6) > 2.0


def test_a_history_of_300_plateaus_is_composed_at_once() -> None:
    history = [(2.0 - part / 300, 0.01 + part * 1e-5, 100) for part in range(300)]
    spent = privacy.compose(history, 1e-5)
    mildest, harshest = history[0], history[-1]
    assert privacy.epsilon(*mildest[:2], 30_000, 1e-5) < spent
    assert spent < privacy.epsilon(*harshest[:2], 30_000, 1e-5)


class TestPlantedBugs:
    """Mistakes in the numerics that would understate ε, each caught by a property above."""

    def test_forgetting_what_lies_beyond_the_period_is_caught(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = _composition._window

        def short(*arguments: object) -> tuple[int, int, float]:
            first, points, _ = real(*arguments)  # pyright: ignore
            return first, points // 2, -math.inf

        monkeypatch.setattr(_composition, "_window", short)
        with pytest.raises(AssertionError):
            test_every_composed_mass_is_bounded_from_above_and_closely()

    def test_forgetting_the_rounding_bound_is_caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = _composition._power

        def unbounded(*arguments: object) -> tuple[np.ndarray, float]:
            return real(*arguments)[0], 1e-300  # pyright: ignore

        monkeypatch.setattr(_composition, "_power", unbounded)
        with pytest.raises(AssertionError):
            test_every_composed_mass_is_bounded_from_above_and_closely()

    def test_rounding_to_the_nearest_multiple_is_caught(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = StepCurve.on_grid

        def nearest(self: StepCurve, interval: float, log_tail: float, *, added: bool) -> StepLoss:
            loss = real(self, interval, log_tail, added=added)
            return _losses.StepLoss(loss.first - 1, loss.log_mass, loss.infinite, loss.rounding)

        monkeypatch.setattr(StepCurve, "on_grid", nearest)
        with pytest.raises(AssertionError):
            test_full_batches_are_one_gaussian(1.0, 1, 1e-5)

    def test_one_direction_alone_is_caught(self) -> None:
        """Adding a record costs less, so no test of ε can see it left out: the curves can."""
        curve = StepCurve(1.0, 0.1)
        removed, added = (
            pld.loss_distribution(
                [(1.0, 0.1, 50)], interval=2.0**-9, delta=1e-5, added=added
            ).epsilon(1e-5)
            for added in (False, True)
        )
        assert 0 < added < removed
        assert curve.delta(np.array([0.5])) > curve.delta(np.array([0.5]), added=True) == 0
