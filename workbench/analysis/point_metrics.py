"""What one configuration costs and carries: at once as a preview, then certified.

`preview` answers in milliseconds. `certify` yields the certified guarantee first and the
mechanism's own ROC ceiling after it; it takes up to seconds and belongs in the background.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workbench import privacy
from workbench.analysis.settings import Point
from workbench.privacy import Guarantee, PrivacyTerms
from workbench.privacy.surface import epsilon_surface

FALSE_POSITIVE_RATES = np.geomspace(1e-6, 1.0, 61)


@dataclass(frozen=True)
class Readings:
    """Everything shown live for one point; ``epsilon`` is a preview, NaN outside its domain."""

    epsilon: float
    noise_batch_ratio: float
    update_noise_to_signal: float
    article_nsr: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ceilings:
    """An attacker's true positive rate, each of shape (rates,).

    ``epsilon_delta`` bounds it; ``gaussian`` is that of one Gaussian mechanism with the same
    (ε, δ), which a run of many steps may exceed.
    """

    false_positive_rate: np.ndarray
    epsilon_delta: np.ndarray
    gaussian: np.ndarray


def preview(point: Point) -> Readings:
    """The readings of ``point`` in milliseconds."""
    return Readings(
        epsilon=preview_epsilon(point),
        noise_batch_ratio=privacy.noise_batch_ratio(
            point.noise_multiplier, point.expected_batch_size
        ),
        update_noise_to_signal=privacy.update_noise_to_signal(
            point.noise_multiplier,
            point.max_grad_norm,
            point.expected_batch_size,
            point.n_params,
            point.mean_gradient_norm,
        ),
        article_nsr=privacy.article_nsr(
            point.noise_multiplier,
            point.max_grad_norm,
            point.expected_batch_size,
            point.mean_gradient_norm,
        ),
        warnings=tuple(_warnings(point)),
    )


def preview_epsilon(point: Point) -> float:
    """ε of ``point`` by the fast surface; NaN outside its domain."""
    return float(
        epsilon_surface(point.noise_multiplier, point.sample_rate, point.steps, point.delta)
    )


def ceilings(epsilon: float, delta: float) -> Ceilings:
    """The ceilings that (ε, δ) alone implies, and those of one Gaussian with the same (ε, δ)."""
    rates = FALSE_POSITIVE_RATES
    if not math.isfinite(epsilon):
        nothing = np.full(rates.shape, np.nan)
        return Ceilings(rates, nothing, nothing)
    mu = privacy.gaussian_mu(epsilon, delta)
    return Ceilings(
        rates,
        privacy.epsilon_delta_ceiling(rates, epsilon, delta),
        privacy.gaussian_ceiling(rates, mu),
    )


def certify(point: Point) -> Iterator[Guarantee | np.ndarray]:
    """Yield the certified guarantee, then the mechanism's own ceiling at `FALSE_POSITIVE_RATES`."""
    history = [(point.noise_multiplier, point.sample_rate, point.steps)]
    yield privacy.guarantee(history, PrivacyTerms.of_training(point.delta))
    yield privacy.mechanism_ceiling(
        FALSE_POSITIVE_RATES, point.noise_multiplier, point.sample_rate, point.steps
    )


def _warnings(point: Point) -> Iterator[str]:
    if point.delta >= 1 / point.dataset_size:
        yield (
            f"δ is {point.delta:.2g} but 1/N is {1 / point.dataset_size:.2g}: a δ this large "
            "allows giving away whole records, so choose one well below 1/N."
        )
