"""ROC ceilings: right where closed forms exist, in the right order, and never below an attack."""

import numpy as np
import pytest
from scipy.stats import norm

from workbench import privacy
from workbench.errors import InputError

FPR = np.array([0.0, 1e-4, 1e-2, 0.1, 0.3, 0.7, 1.0])


def test_the_published_values_at_epsilon_8() -> None:
    """TPR at FPR 0.1 for ε = 8, δ = 1e-5: .9997 from (ε, δ) alone, .65 for one Gaussian."""
    assert privacy.epsilon_delta_ceiling([0.1], 8, 1e-5)[0] == pytest.approx(0.9997, abs=5e-5)
    mu = privacy.gaussian_mu(8, 1e-5)
    assert privacy.gaussian_ceiling([0.1], mu)[0] == pytest.approx(0.65, abs=5e-3)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 4.0])
def test_one_full_batch_step_has_the_gaussian_curve(sigma: float) -> None:
    ceiling = privacy.mechanism_ceiling(FPR, sigma, 1.0, 1)
    exact = norm.cdf(norm.ppf(FPR) + 1 / sigma)
    # Pessimistic discretisation and 1001 supporting lines: above the curve, by at most 0.002.
    assert np.all(ceiling >= exact - 1e-9)
    assert np.all(ceiling <= exact + 2e-3)


def test_gaussian_mu_inverts_the_gaussian_mechanism() -> None:
    for sigma in (0.5, 1.0, 5.0):
        mu = privacy.gaussian_mu(privacy.epsilon(sigma, 1.0, 1, 1e-6), 1e-6)
        assert mu == pytest.approx(1 / sigma, rel=5e-3)


def test_the_mechanism_allows_less_than_its_epsilon_delta() -> None:
    sigma, rate, steps, delta = 1.0, 0.02, 500, 1e-5
    loose = privacy.epsilon_delta_ceiling(FPR, privacy.epsilon(sigma, rate, steps, delta), delta)
    own = privacy.mechanism_ceiling(FPR, sigma, rate, steps)
    assert np.all(own <= loose + 1e-3)
    assert own[3] < loose[3] - 0.1


def test_the_best_attack_on_simulated_outputs_stays_below_the_ceiling_and_comes_near() -> None:
    rng = np.random.default_rng(0)
    sigma, rate, steps, n = 1.0, 0.1, 30, 100_000

    def losses(member: bool) -> np.ndarray:
        chosen = (rng.random((n, steps)) < rate) if member else np.zeros((n, steps))
        noisy = chosen + sigma * rng.standard_normal((n, steps))
        return np.log1p(rate * np.expm1((2 * noisy - 1) / (2 * sigma**2))).sum(axis=1)

    members, others = losses(True), losses(False)
    rates = np.array([0.01, 0.1, 0.3])
    thresholds = np.quantile(others, 1 - rates)
    attack = (members[:, None] >= thresholds).mean(axis=0)
    ceiling = privacy.mechanism_ceiling(rates, sigma, rate, steps)
    # Likelihood ratios are the best test; 5 standard errors of 100 000 draws are 0.008.
    assert np.all(attack <= ceiling + 0.008)
    assert np.all(attack >= ceiling - 0.03)


def test_ceilings_rise_with_the_false_positive_rate_and_never_fall_below_guessing() -> None:
    for curve in (
        privacy.epsilon_delta_ceiling(FPR, 1.0, 1e-5),
        privacy.gaussian_ceiling(FPR, 0.5),
        privacy.mechanism_ceiling(FPR, 2.0, 0.05, 100),
    ):
        assert np.all(np.diff(curve) >= 0)
        assert np.all(curve >= FPR - 1e-12)
        assert np.all(curve <= 1)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(0.3, 1.0, 200), (0.3, 1.0, 10**6), (0.01, 0.5, 1000)]
)
def test_a_ceiling_where_nothing_is_hidden_is_1_and_a_number(
    sigma: float, rate: float, steps: int
) -> None:
    """exp(−loss) overflows there, and the ceiling was NaN."""
    ceiling = privacy.mechanism_ceiling(FPR, sigma, rate, steps)
    assert np.all(ceiling[FPR > 0] >= 0.999)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match="fpr"):
        privacy.gaussian_ceiling([1.5], 1.0)
    with pytest.raises(InputError, match="epsilon"):
        privacy.epsilon_delta_ceiling([0.1], -1, 1e-5)
    with pytest.raises(InputError, match="noise_multiplier"):
        privacy.mechanism_ceiling([0.1], 0, 0.1, 10)


def test_taking_only_one_direction_or_sign_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling from positive ε alone stays a bound, but misses the curve by far at high FPR."""
    from workbench.privacy import tradeoff

    real = np.linspace
    monkeypatch.setattr(tradeoff.np, "linspace", lambda a, b, n: real(0, b, n))
    with pytest.raises(AssertionError):
        test_one_full_batch_step_has_the_gaussian_curve(1.0)
