"""Certified values against the papers' formulas, worked out here on grids of their own.

None of what is compared is called: closed forms in numpy, minimised over dense orders.
"""

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from workbench import privacy
from workbench.privacy import calibration
from workbench.privacy.surface import explain_epsilon_surface, explain_noise_multiplier_surface

DELTA = 1e-5


def converted(rdp: np.ndarray, orders: np.ndarray, delta: float = DELTA) -> float:
    """The least ε over ``orders`` (Canonne, Kamath & Steinke 2020, Proposition 12)."""
    epsilon = rdp + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return float(epsilon.min())


@pytest.mark.parametrize("mu", [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0])
def test_renyi_orders_reach_as_far_as_the_best_one(mu: float) -> None:
    """Plain Gaussian of sensitivity μ: Rényi divergence αμ²/2 (Mironov 2017, Corollary 3).

    The best order is about 1 + √(2·log(1/δ))/μ: 480 at μ = 0.01 and 1.2 at μ = 20. Orders are
    spaced so that the best of them costs at most 2 % more than the best of all.
    """
    orders = 1 + np.geomspace(0.02, 50_000, 400_000)
    best = converted(orders * mu**2 / 2, orders)
    found = privacy.epsilon(1 / mu, 1.0, 1, DELTA, accountant="rdp")
    assert best * (1 - 1e-6) <= found <= best * 1.02


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(50.0, 0.01, 1000), (5.0, 0.001, 20_000)])
def test_renyi_orders_of_small_rates_reach_far(sigma: float, rate: float, steps: int) -> None:
    """Subsampled Gaussian at whole orders: Mironov, Talwar & Zhang 2019 (1908.10530), section 3.3.

    At σ = 50 the least ε is 0.0186 at an order in the hundreds; orders up to 64 would say 0.10.
    """
    orders = np.unique(np.geomspace(2, 6000, 600).round())
    k = np.arange(6001.0)[None, :]
    n = orders[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = (
            gammaln(n + 1)
            - gammaln(k + 1)
            - gammaln(np.maximum(n - k, 0) + 1)
            + (n - k) * math.log1p(-rate)
            + k * math.log(rate)
            + (k * k - k) / (2 * sigma**2)
        )
    log_moment = np.asarray(logsumexp(np.where(k <= n, terms, -np.inf), axis=1))
    best = converted(steps * log_moment / (orders - 1), orders)
    found = privacy.epsilon(sigma, rate, steps, DELTA, accountant="rdp")
    assert best * 0.999 <= found <= best * 1.02


def best_of_random(mu: float, mean: float, eta: float) -> float:
    """Papernot & Steinke 2022 (2110.03620), Theorem 2, of a Gaussian of sensitivity μ.

    K is truncated negative binomial: geometric for η = 1, logarithmic for η = 0. With ε(λ) = λρ,
    ρ = μ²/2: ε′(λ) = λρ + (1 + η)·(1 − 1/λ̂)·λ̂ρ + (1 + η)·log(1/γ)/λ̂ + log E[K]/(λ − 1),
    for every λ̂ ≥ 1.
    """
    rho = mu**2 / 2
    gamma = 1 / mean if eta == 1 else _gamma_of_logarithmic(mean)
    inner = 1 + np.geomspace(1e-3, 1e4, 100_000)
    extra = (1 + eta) * ((inner - 1) * rho + math.log(1 / gamma) / inner).min()
    orders = 1 + np.geomspace(0.1, 1e4, 100_000)
    return converted(orders * rho + extra + math.log(mean) / (orders - 1), orders)


def _gamma_of_logarithmic(mean: float) -> float:
    """γ with E[K] = (1/γ − 1)/log(1/γ), by bisection."""
    low, high = 1e-12, 1 - 1e-9
    for _ in range(200):
        gamma = math.sqrt(low * high)
        low, high = (gamma, high) if (1 / gamma - 1) / -math.log(gamma) > mean else (low, gamma)
    return low


@pytest.mark.parametrize("mean", [2.0, 10.0, 300.0])
@pytest.mark.parametrize(("distribution", "eta"), [("geometric", 1.0), ("logarithmic", 0.0)])
def test_a_random_number_of_trials_costs_what_its_theorem_says(
    distribution: Any, eta: float, mean: float
) -> None:
    """Within 2 %, the spacing of orders; the two differ by 12 % and more."""
    expected = best_of_random(0.2, mean, eta)
    found = privacy.random_trials(
        [(5.0, 1.0, 1)], DELTA, mean_trials=mean, distribution=distribution
    )
    assert expected * 0.999 <= found <= expected * 1.02


@pytest.mark.parametrize("mean", [2.0, 10.0, 300.0])
def test_a_poisson_number_of_trials_costs_what_its_theorem_says(mean: float) -> None:
    """Theorem 6 there: ε′(λ) = λρ + E[K]·δ̂ + log E[K]/(λ − 1), δ̂ that of ε̂ = log(1 + 1/(λ − 1)).

    δ̂ from the Rényi divergence too (Canonne, Kamath & Steinke 2020, Proposition 12).
    """
    orders = 1 + np.geomspace(0.1, 1e3, 3000)
    divergence = orders * 0.2**2 / 2
    there = np.log1p(1 / (orders - 1))[:, None]
    log_delta = (orders - 1) * (divergence - there + np.log1p(-1 / orders)) - np.log(orders)
    extra = mean * np.exp(np.minimum(log_delta.min(axis=1), 0))
    expected = converted(divergence + extra + math.log(mean) / (orders - 1), orders)
    found = privacy.random_trials([(5.0, 1.0, 1)], DELTA, mean_trials=mean, distribution="poisson")
    assert expected * 0.999 <= found <= expected * 1.02


@pytest.mark.parametrize("sigma", [0.5123, 0.7777, 1.003, 1.9, 2.468, 3.333, 4.567, 9.999])
def test_a_target_a_hair_below_a_four_digit_sigma_is_kept(sigma: float) -> None:
    """The search ends within 1e-5 of σ, so what it finds may round up to one digit too few."""
    spent = privacy.epsilon(sigma, 1.0, 1, DELTA, accountant="rdp")
    for target in (spent * (1 - 1e-9), spent, spent * (1 + 1e-9)):
        found = privacy.noise_multiplier(target, 1.0, 1, DELTA, accountant="rdp")
        assert privacy.epsilon(found, 1.0, 1, DELTA, accountant="rdp") <= target
        assert found <= sigma * 1.002 + 1e-12


@pytest.mark.parametrize("error", [-1e-3, 1e-3, 0.02])
def test_calibration_asks_again_about_what_its_search_found(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    """Were the root off by a little, σ would still be the least of four digits within budget."""
    expected = privacy.noise_multiplier(3.0, 1.0, 1, DELTA, accountant="rdp")
    search = calibration.root_scalar

    def worse(*args: Any, **kwargs: Any) -> Any:
        found = search(*args, **kwargs)
        found.root *= 1 + error
        return found

    monkeypatch.setattr(calibration, "root_scalar", worse)
    assert privacy.noise_multiplier(3.0, 1.0, 1, DELTA, accountant="rdp") == expected


@pytest.mark.parametrize("delta", [9e-13, 1e-14, 1.1e-2, 0.1])
def test_the_preview_answers_nothing_where_it_was_not_checked(delta: float) -> None:
    for explain, first in (
        (explain_epsilon_surface, 1.0),
        (explain_noise_multiplier_surface, 3.0),
    ):
        preview = explain(first, 0.01, 1000, [delta, 1e-5])
        assert np.isnan(preview.values).tolist() == [True, False]
        assert preview.reasons[0].startswith("delta lies outside")
        assert preview.reasons[1] == ""
