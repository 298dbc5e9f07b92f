"""What noise a privacy budget asks of every batch and number of steps, quickly enough to search.

The search takes previewed σ, interpolated between a few; the point that is chosen is certified by
an accountant (`certified`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import RectBivariateSpline

from workbench import privacy

_CELLS = 8  # along sample rates and along steps
_LEAST_SIGMA = 0.3  # that the preview covers
_LEAST_RATE = 1e-6  # that the preview covers
MOST_STEPS = 1e6


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """σ over q and T at one (ε, δ), and σ of one Gaussian release of it.

    What is interpolated is by how much the central limit errs, ln of q·√(T·(e^{1/σ²} − 1))·σ_GM,
    which is near 0 everywhere. ``error`` is None where training is not private: then σ is 0.
    """

    error: RectBivariateSpline | None
    gaussian: float

    def noise_multiplier(self, sample_rate: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Previewed σ, of the common shape."""
        if self.error is None:
            return np.zeros(np.broadcast_shapes(sample_rate.shape, steps.shape))
        rate, count = np.broadcast_arrays(np.log(sample_rate), np.log(steps))
        error = self.error(rate, count, grid=False)
        limit = rate + count / 2 + np.log(self.gaussian)
        return np.log1p(np.exp(2 * (error - limit))) ** -0.5

    def rho(self, noise_multiplier: np.ndarray, rate: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """How many times more noise than with every record in every batch: σ/(q·√T·σ_GM).

        Räisä et al. 2024 (arXiv 2402.03990): where ρ is near 1, a larger batch at the same ε hardly
        lowers the noise-batch ratio any more.
        """
        if self.error is None:
            return np.ones_like(noise_multiplier)
        return noise_multiplier / (rate * np.sqrt(steps) * self.gaussian)


@lru_cache(maxsize=64)
def noise_table(target_epsilon: float, delta: float, least_rate: float, steps: float) -> NoiseTable:
    """σ for sample rates from ``least_rate`` to 1 and up to ``steps`` steps."""
    if np.isinf(target_epsilon):
        return NoiseTable(None, 0.0)
    rates = np.geomspace(max(least_rate, _LEAST_RATE), 1, _CELLS)
    counts = np.unique(np.round(np.geomspace(1, max(steps, 2 * _CELLS), _CELLS)))
    found = privacy.noise_multiplier_surface(target_epsilon, rates[:, None], counts[None, :], delta)
    gaussian = gaussian_sigma(target_epsilon, delta)
    limit = np.log(rates)[:, None] + np.log(counts) / 2 + np.log(gaussian)
    # What the preview leaves open needs less than its least σ: tiny batches and few steps.
    sigma = np.where(np.isfinite(found), found, _LEAST_SIGMA)
    error = limit + np.log(np.expm1(sigma**-2)) / 2
    return NoiseTable(
        RectBivariateSpline(np.log(rates), np.log(counts), error, kx=1, ky=1), gaussian
    )


def gaussian_sigma(target_epsilon: float, delta: float) -> float:
    """σ of one Gaussian release within (ε, δ), in closed form."""
    return float(privacy.noise_multiplier_surface(target_epsilon, 1.0, 1, delta))


def certified(
    target_epsilon: float, sample_rate: float, steps: int, delta: float
) -> tuple[float, privacy.Guarantee]:
    """The smallest σ within the target by the PLD accountant, and what it guarantees."""
    sigma = privacy.noise_multiplier(target_epsilon, sample_rate, steps, delta)
    terms = privacy.PrivacyTerms.of_training(delta)
    return sigma, privacy.guarantee([(sigma, sample_rate, steps)], terms)
