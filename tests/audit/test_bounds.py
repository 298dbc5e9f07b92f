"""Empirical ε against published values, its definitions, and mechanisms whose ε is known."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from workbench import privacy
from workbench.audit import (
    bounds,
    clopper_pearson_epsilon,
    gaussian_epsilon,
    gdp_audit_epsilon,
    last_iterate_epsilon,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_order_epsilon,
)
from workbench.audit.gaussian import gaussian_inverse
from workbench.errors import InputError

COUNTED = [one_run_epsilon, one_run_fdp_epsilon, one_run_order_epsilon]
Counted = Callable[..., float]


@pytest.mark.parametrize(("guesses", "cap"), [(10, 1.0519), (100, 3.4930), (1000, 5.8091)])
def test_the_cap_of_a_certificate(guesses: int, cap: float):
    """All right: ε with q^r = p, so q = p^(1/r) and ε = log q/(1 − q); the figures follow."""
    q = 0.05 ** (1 / guesses)
    assert math.log(q / (1 - q)) == pytest.approx(cap, abs=1e-4)
    found = one_run_epsilon(guesses, guesses, guesses, delta=0, significance=0.05)
    assert found == pytest.approx(cap, abs=1e-4)


def test_delta_makes_a_certificate_weaker_by_its_formula():
    """β + 2mδα by a plain double loop, for one (m, r, v) and several ε."""
    m, r, v, delta = 50, 20, 16, 1e-3
    for epsilon in (0.1, 0.5, 1.0, 2.0):
        q = math.exp(epsilon) / (1 + math.exp(epsilon))
        beta = sum(binom.pmf(k, r, q) for k in range(v, r + 1))
        alpha = max(sum(binom.pmf(k, r, q) for k in range(v - i, v)) / i for i in range(1, v + 1))
        expected = min(1.0, beta + 2 * m * delta * alpha)
        told = bounds.one_run_p_value(m, r, v, epsilon=epsilon, delta=delta)
        assert told == pytest.approx(expected, rel=1e-9)


def test_clopper_pearson_of_a_perfect_attack():
    """Published for 500 of 500 against 0 of 500 at significance .01."""
    found = clopper_pearson_epsilon(500, 500, 0, 500, delta=0, significance=0.01)
    assert found == pytest.approx(4.5419, abs=1e-4)


def test_one_run_of_halved_noise():
    """Published: m = 1000, 100 of 100 right; f-DP 5.55, the certificate its cap of 3.47."""
    told = {"delta": 1e-5, "significance": 0.05}
    assert one_run_fdp_epsilon(1000, 100, 100, **told) == pytest.approx(5.55, abs=0.005)
    assert one_run_epsilon(1000, 100, 100, **told) == pytest.approx(3.47, abs=0.005)


def test_the_last_iterate_explains_weak_audits():
    """Published: 2.76 where the accountant says 5.04."""
    assert last_iterate_epsilon(0.8, 0.027, 300, delta=1e-5) == pytest.approx(2.76, abs=0.005)
    assert privacy.epsilon(0.8, 0.027, 300, 1e-5) == pytest.approx(5.04, abs=0.005)


def test_the_last_iterate_of_one_full_step_is_the_gaussian_mechanism():
    expected = gaussian_epsilon(1 / 1.3, delta=1e-5)
    assert last_iterate_epsilon(1.3, 1.0, 1, delta=1e-5) == pytest.approx(expected, rel=1e-6)
    many = last_iterate_epsilon(4.0, 1.0, 25, delta=1e-5)  # 25 uses, deviation 20: the sum of steps
    assert many == pytest.approx(gaussian_epsilon(25 / 20, delta=1e-5), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.8, 20), st.floats(0.001, 1), st.integers(1, 60), st.sampled_from([1e-2, 1e-4]))
def test_the_last_iterate_is_its_integral(sigma: float, rate: float, steps: int, delta: float):
    """δ at the ε told, by sums over a fine grid of x, is δ: the worse of both directions."""
    epsilon = last_iterate_epsilon(sigma, rate, steps, delta=delta)
    deviation = sigma * math.sqrt(steps)
    k = np.arange(steps + 1)
    near = k[binom.pmf(k, steps, rate) > 1e-16]
    x = np.linspace(-9 * deviation, near.max() + 9 * deviation, 20_001)
    q = norm.pdf(x, 0, deviation)
    p = sum(binom.pmf(u, steps, rate) * norm.pdf(x, u, deviation) for u in near)
    step = x[1] - x[0]
    found = max(
        np.maximum(one - math.exp(epsilon) * other, 0).sum() * step
        for one, other in [(p, q), (q, p)]
    )
    if epsilon == 0:
        assert found <= delta * 1.01
    else:
        assert found == pytest.approx(delta, rel=0.02)


@given(st.floats(0.01, 12), st.sampled_from([1e-2, 1e-5, 1e-9]))
def test_gaussian_epsilon_inverts_gaussian_mu(mu: float, delta: float):
    epsilon = gaussian_epsilon(mu, delta=delta)
    if epsilon > 1e-6:
        assert privacy.gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)
    else:  # total variation alone is within δ
        assert 2 * norm.cdf(mu / 2) - 1 <= delta * (1 + 1e-3)


@pytest.mark.parametrize("of", COUNTED)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_more_right_guesses_never_say_less(of: Counted, data: st.DataObject):
    m = data.draw(st.integers(1, 400))
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r - 1))
    told = {"delta": 1e-5, "significance": 0.05}
    assert of(m, r, v, **told) <= of(m, r, v + 1, **told) + 1e-6


@pytest.mark.parametrize("of", COUNTED)
def test_half_right_says_nothing(of: Counted):
    assert of(1000, 100, 50, delta=1e-5, significance=0.05) == 0
    assert of(10, 0, 0, delta=1e-5, significance=0.05) == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.data())
def test_rates_bound_monotonically(n: int, data: st.DataObject):
    hits, alarms = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    told = {"delta": 1e-5, "significance": 0.05}
    for of in (clopper_pearson_epsilon, gdp_audit_epsilon):
        one = of(hits, n, alarms + 1, n, **told)
        # With fewer hits than alarms the mirrored attack speaks, and more hits weaken that one.
        if hits > alarms:
            assert one <= of(hits + 1, n, alarms + 1, n, **told) + 1e-9
            assert one <= of(hits, n, alarms, n, **told) + 1e-9


def test_reversed_scores_are_no_evidence_of_a_gaussian():
    assert gdp_audit_epsilon(0, 500, 500, 500, delta=1e-5, significance=0.05) == 0


def test_the_mirror_takes_the_rates_of_nonmembers():
    """Nobody called a non-member is a member: TNR low over FNR high, by its own limits."""
    told = clopper_pearson_epsilon(400, 400, 200, 400, delta=0, significance=0.02)
    low, high = binom_low(400, 400, 0.01), 1 - binom_low(200, 400, 0.01)
    expected = max(math.log(low / high), math.log((1 - high) / (1 - low)))
    assert told == pytest.approx(expected, rel=1e-6)


def binom_low(hits: int, of: int, outside: float) -> float:
    """The Clopper–Pearson lower limit by bisection of the binomial tail."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binom.sf(hits - 1, of, middle) < outside else (low, middle)
    return low


def test_a_p_value_is_where_rejection_begins():
    curve = gaussian_inverse(1.0)
    p = bounds.one_run_fdp_p_value(curve, 500, 60, 55)
    assert 0 < p < 1
    assert bounds.one_run_rejects(curve, 500, 60, 55, significance=p * 1.001)
    assert not bounds.one_run_rejects(curve, 500, 60, 55, significance=p * 0.999)


AUDITS = 300
TOLERATED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / AUDITS)  # three standard deviations above 5 %


def independent_guesses(rng: np.random.Generator, mu: float, m: int, r: int) -> int:
    """Right guesses of the r surest among m canaries of a Gaussian mechanism."""
    inside = rng.random(m) < 0.5
    x = rng.normal(0, 1, m) + mu * inside
    surest = np.argsort(-np.abs(x - mu / 2))[:r]
    return int(((x > mu / 2) == inside)[surest].sum())


@pytest.mark.parametrize("of", COUNTED)
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.5])
def test_independent_canaries_exceed_the_truth_within_the_significance(of: Counted, mu: float):
    """On what it supposes even the estimate is honest; the truth is that of the Gaussian."""
    rng, truth = np.random.default_rng(4), gaussian_epsilon(mu, delta=1e-5)
    told = cache(lambda right: of(200, 50, right, delta=1e-5, significance=0.05))
    exceeded = sum(told(independent_guesses(rng, mu, 200, 50)) > truth for _ in range(AUDITS))
    assert exceeded / AUDITS <= TOLERATED


def shared_coin(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    """A 1-GDP mechanism whose canaries share a coin: half of the time it says nothing at all."""
    inside = rng.random(m) < 0.5
    told = np.where(rng.random(m) < 0.79, inside, ~inside)
    return inside, told if rng.random() < 0.5 else rng.random(m) < 0.5


def test_a_shared_coin_fools_estimates_and_no_certificate():
    """δ of answering every bit rightly with probability .79 half of the time is within 1-GDP."""
    rng, truth = np.random.default_rng(5), gaussian_epsilon(1.0, delta=1e-5)
    exceeded = dict.fromkeys(["certificate", "rejects a curve", "order", "rates"], 0)
    terms = {"delta": 1e-5, "significance": 0.05}
    certificate, curve, order = (
        cache(lambda right, of=of: of(1000, 1000, right, **terms)) for of in COUNTED
    )
    for _ in range(AUDITS):
        inside, told = shared_coin(rng, 1000)
        right = int((inside == told).sum())
        counts = (int((told & inside).sum()), int(inside.sum()))
        alarms = (int((told & ~inside).sum()), int((~inside).sum()))
        exceeded["certificate"] += certificate(right) > truth
        exceeded["rejects a curve"] += curve(right) > truth
        exceeded["order"] += order(right) > truth
        exceeded["rates"] += gdp_audit_epsilon(*counts, *alarms, **terms) > truth
    assert exceeded["certificate"] / AUDITS <= TOLERATED
    assert exceeded["rejects a curve"] / AUDITS <= TOLERATED
    assert 0.4 < exceeded["order"] / AUDITS < 0.6
    assert 0.4 < exceeded["rates"] / AUDITS < 0.6


@pytest.mark.parametrize("of", COUNTED)
@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (0, 0, 0), (10, 5, -1), (10, 5, 2.5)])
def test_counts_that_do_not_nest_are_refused(of: Counted, counts: tuple):
    with pytest.raises(InputError):
        of(*counts, delta=1e-5, significance=0.05)


@pytest.mark.parametrize("of", COUNTED)
@pytest.mark.parametrize(("delta", "significance"), [(1.0, 0.05), (1e-5, 0.0), (-1e-5, 0.05)])
def test_terms_outside_are_refused(of: Counted, delta: float, significance: float):
    with pytest.raises(InputError):
        of(10, 5, 4, delta=delta, significance=significance)
