"""Where ε has a closed form, everything that states one is held to it; and edges of what is taken.

One step, or every record in every step: δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) (Balle & Wang 2018,
Theorem 8), and of one subsampled step δ(ε) = q·δ′(log(1 + (e^ε − 1)/q)) (Balle, Barthe & Gaboardi
2018, Theorem 9), evaluated here with scipy alone.
"""

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from workbench import privacy
from workbench.errors import InputError
from workbench.privacy import surface
from workbench.privacy.surface import epsilon_surface


def exact_delta(epsilon: float, mu: float) -> float:
    return float(
        norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
    )


def exact_epsilon(sigma: float, rate: float, steps: int, delta: float) -> float:
    """Of one step, or of all records in every step; 0 where δ is met without any ε."""
    assert steps == 1 or rate == 1.0
    mu = math.sqrt(steps) / sigma
    if delta >= rate or exact_delta(0.0, mu) <= delta / rate:
        return 0.0
    plain: Any = brentq(lambda e: exact_delta(e, mu) - delta / rate, 0.0, 690.0, xtol=1e-12)
    return math.log1p(rate * math.expm1(plain))


CASES = [
    (sigma, rate, steps, delta)
    for sigma in (0.3, 0.8, 2.0, 20.0)
    for rate, steps in ((1.0, 1), (1.0, 30), (0.2, 1), (1e-3, 1))
    for delta in (1e-3, 1e-6, 1e-10)
    if steps / sigma**2 < 400
]


@pytest.mark.parametrize(("sigma", "rate", "steps", "delta"), CASES)
def test_the_preview_is_exact_where_a_closed_form_is(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    expected = exact_epsilon(sigma, rate, steps, delta)
    assert float(epsilon_surface(sigma, rate, steps, delta)) == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"),
    [(0.8, 1.0, 1, 1e-6), (2.0, 1.0, 30, 1e-6), (0.8, 0.2, 1, 1e-6), (0.5, 1e-3, 1, 1e-5)],
)
def test_certified_values_are_never_below_the_truth_and_hardly_above(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    expected = exact_epsilon(sigma, rate, steps, delta)
    found = privacy.epsilon(sigma, rate, steps, delta)
    assert expected * (1 - 1e-9) <= found <= expected * 1.01 + 0.01
    assert privacy.epsilon(sigma, rate, steps, delta, accountant="rdp") >= expected
    at = privacy.delta(sigma, rate, steps, expected)
    assert delta * (1 - 1e-6) <= at <= delta * 1.1


def test_a_delta_that_the_sampling_alone_meets_needs_no_epsilon() -> None:
    """δ at or above q: the record is in the batch more seldom than that.

    Below it, σ = 0.5 moves two thirds of the outcomes, Φ(1) − Φ(−1).
    """
    assert epsilon_surface(0.5, 1e-5, 1, [1e-5, 2e-5, 1e-3]).tolist() == [0, 0, 0]
    assert epsilon_surface(0.5, 1e-5, 1, 0.69e-5) == 0
    assert float(epsilon_surface(0.5, 1e-5, 1, 0.68e-5)) > 0
    assert privacy.epsilon(0.5, 1e-5, 1, 2e-5) == 0.0


def test_the_previews_error_is_the_one_that_it_states() -> None:
    percent, absolute = re.findall(r"[\d.]+", surface.PREVIEW_ERROR)
    assert float(percent) / 100 == surface.RELATIVE_ERROR
    assert float(absolute) == surface.ABSOLUTE_ERROR


def test_the_least_sigma_that_is_accounted_is_taken_and_less_is_not() -> None:
    assert privacy.epsilon(0.01, 1.0, 1, 1e-5, accountant="rdp") > 4000
    for accountant in ("pld", "rdp", "prv"):
        with pytest.raises(InputError, match=r"accounting starts at 0\.01"):
            privacy.epsilon(0.00999, 1.0, 1, 1e-5, accountant=accountant)  # pyright: ignore


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_noise_is_told_of_positive_numbers_alone(bad: float) -> None:
    for number in range(5):
        values: list[Any] = [1.0, 2.0, 3.0, 4.0, 5.0]
        values[number] = bad
        with pytest.raises(InputError):
            privacy.update_noise_to_signal(*values)
        if number < 4:
            with pytest.raises(InputError):
                privacy.article_nsr(*values[:4])
        if number < 2:
            with pytest.raises(InputError):
                privacy.noise_batch_ratio(*values[:2])
    with pytest.raises(InputError):
        privacy.noise_batch_ratio(np.array([1.0, bad]), 3.0)


def test_noise_conventions_are_their_formulas() -> None:
    assert privacy.noise_batch_ratio(3.0, 4.0) == 0.75
    assert privacy.update_noise_to_signal(3.0, 2.0, 4.0, 25.0, 0.5) == 3 * 2 * 5 / (4 * 0.5)
    assert privacy.article_nsr(3.0, 2.0, 4.0, 0.5) == 3 * 2 / (2 * 0.5)
    assert privacy.noise_batch_ratio(np.array([1.0, 3.0]), 2.0).tolist() == [0.5, 1.5]


def test_ceilings_are_their_formulas() -> None:
    """Kairouz et al. 2015, Theorem 2.1, and Dong, Roth & Su 2022, Corollary 2.13."""
    rates = np.array([0.0, 1e-6, 0.01, 0.5, 1.0])
    for epsilon, delta in ((0.1, 1e-5), (2.0, 1e-3), (30.0, 0.1)):
        lines = np.minimum(
            math.exp(epsilon) * rates + delta, 1 - math.exp(-epsilon) * (1 - rates - delta)
        )
        found = privacy.epsilon_delta_ceiling(rates, epsilon, delta)
        assert found == pytest.approx(np.clip(lines, 0, 1), rel=1e-12)
        mu = privacy.gaussian_mu(epsilon, delta)
        assert exact_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)
        ceiling = privacy.gaussian_ceiling(rates, mu)
        assert ceiling == pytest.approx(norm.cdf(norm.ppf(rates) + mu), rel=1e-12)


def test_rates_outside_zero_and_one_have_no_ceiling() -> None:
    for fpr in (-1e-9, 1 + 1e-9, math.nan):
        for ceiling in (
            lambda x: privacy.epsilon_delta_ceiling(x, 1.0, 1e-5),
            lambda x: privacy.gaussian_ceiling(x, 1.0),
        ):
            with pytest.raises(InputError, match="outside"):
                ceiling([0.5, fpr])
