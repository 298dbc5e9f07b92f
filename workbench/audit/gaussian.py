"""Between μ-GDP, ε at δ, and trade-off curves (Dong, Roth & Su 2022, arXiv 1905.02383)."""

import math
from collections.abc import Callable

from scipy.optimize import root_scalar
from scipy.special import log_ndtr, ndtr, ndtri

from workbench.errors import InputError, probability


def gaussian_inverse(mu: float) -> Callable[[float], float]:
    """f̄⁻¹(x) = Φ(Φ⁻¹(x) − μ) of μ-GDP (Dong et al. 2022)."""
    return lambda rate: float(ndtr(ndtri(rate) - mu))


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """The ε at ``delta`` of μ-GDP, 0 where μ alone is within δ.

    Solves δ = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) for ε (Dong et al. 2022, corollary 2.13). Raises
    `InputError` unless μ ≥ 0 is finite and 0 < δ < 1.
    """
    probability("delta", delta, remedy="choose one such as 1e-5")
    if not (math.isfinite(mu) and mu >= 0):
        raise InputError(f"mu is {mu:g} but must be finite and at least 0; give one.")
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        first = log_ndtr(-epsilon / mu + mu / 2)
        second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
        return float(first + log1mexp(min(second - first, 0.0))) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    most = mu * mu / 2 + mu * 40 + 1  # where Φ(−ε/μ + μ/2) < 1e-348
    return root_between(excess, 0.0, most)


def root_between(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function changes its sign between two places, in either order."""
    return float(root_scalar(function, bracket=(low, high), xtol=1e-12).root)


def log1mexp(x: float) -> float:
    """log(1 − e^x) for x ≤ 0."""
    if x >= 0:
        return -math.inf
    return math.log(-math.expm1(x)) if x > -math.log(2) else math.log1p(-math.exp(x))
