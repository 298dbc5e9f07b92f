"""Ceilings on the ROC curve of any membership test that a guarantee leaves possible.

Each takes false positive rates in [0, 1] and returns the largest true positive rate at each.

>>> fpr = np.array([0.1])
>>> epsilon_delta_ceiling(fpr, 8.0, 1e-5).round(4)
array([0.9997])
>>> gaussian_ceiling(fpr, gaussian_mu(8.0, 1e-5)).round(2)
array([0.65])
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import root_scalar
from scipy.special import log_ndtr
from scipy.stats import norm

from workbench.errors import InputError, positive, probability
from workbench.privacy.accountant import checked_history
from workbench.privacy.pld import delta_curve, settled_epsilon


def epsilon_delta_ceiling(fpr: ArrayLike, epsilon: float, delta: float) -> np.ndarray:
    """min{1, e^ε·FPR + δ, 1 − e^{−ε}(1 − FPR − δ)}: Kairouz et al. 2015 (1311.0776), Theorem 2.1.

    All that (ε, δ) alone says; the mechanism behind it allows less.
    """
    rates = _rates(fpr)
    positive("epsilon", epsilon, remedy="choose a positive budget")
    probability("delta", delta, remedy="choose one such as 1e-5")
    steep = np.exp(np.minimum(epsilon + np.log(np.maximum(rates, 1e-300)), 0)) + delta
    flat = 1 - np.exp(-epsilon) * (1 - rates - delta)
    return np.clip(np.minimum(np.where(rates > 0, steep, delta), flat), 0, 1)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The μ of the one Gaussian mechanism that is exactly (ε, δ)-DP.

    Dong et al. 2022, Corollary 2.13: δ = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2), solved for μ.
    """
    positive("epsilon", epsilon, remedy="choose a positive budget")
    probability("delta", delta, remedy="choose one such as 1e-5")

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        first = log_ndtr(-epsilon / mu + mu / 2)
        second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
        return float(first + np.log(-np.expm1(min(second - first, -1e-300))) - np.log(delta))

    widest = (math.log(1e-6), math.log(1e4 + 2 * epsilon))
    return math.exp(root_scalar(excess, bracket=widest, xtol=1e-12).root)


def gaussian_ceiling(fpr: ArrayLike, mu: float) -> np.ndarray:
    """Φ(Φ⁻¹(FPR) + μ): the ceiling of μ-Gaussian differential privacy (Dong et al. 2022)."""
    positive("mu", mu, remedy="compute it from a guarantee with gaussian_mu")
    return norm.cdf(norm.ppf(_rates(fpr)) + mu)


def mechanism_ceiling(
    fpr: ArrayLike, noise_multiplier: float, sample_rate: float, steps: int
) -> np.ndarray:
    """The ceiling of the mechanism itself: the lowest of all its (ε, δ(ε)) lines.

    TPR ≤ min over ε of e^ε·FPR + δ(ε), with δ(ε) from the privacy loss distribution (an upper
    bound), for ε of either sign (Dong et al. 2022, Proposition 2.12), the worse of adding and
    removing the record.
    """
    rates = _rates(fpr)
    history = checked_history([(noise_multiplier, sample_rate, steps)])
    if not history:
        return rates
    reach = max(1.0, settled_epsilon(history, 1e-10).value)
    levels = np.linspace(-reach, reach, 1001)
    with np.errstate(divide="ignore"):
        log_rates = np.log(rates)[..., None]
    # All lines that are above 1 say the same.
    lines = np.exp(np.minimum(log_rates + levels, 1)) + delta_curve(history, levels)
    return np.clip(lines.min(axis=-1), rates, 1)


def _rates(fpr: ArrayLike) -> np.ndarray:
    try:
        rates = np.asarray(fpr, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"fpr is {fpr!r} but must hold numbers; give false positive rates."
        ) from None
    if not np.all((rates >= 0) & (rates <= 1)):
        raise InputError("fpr has a value outside [0, 1]; give false positive rates.")
    return rates
