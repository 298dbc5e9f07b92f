"""Privacy loss distributions of dp-accounting, discretised finely enough to trust.

>>> distribution = loss_distribution([(1.0, 0.01, 1000)], interval=1e-3)
>>> round(distribution.get_epsilon_for_delta(1e-5), 2)
1.83
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import norm

from workbench.config import Sampling
from workbench.privacy.schedule import History

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

_SETTLED = 0.005  # a reading counts as settled when a finer one differs by less than 0.5 %


@dataclass(frozen=True)
class Batches:
    """How batches are drawn, with the sizes that only some schemes need."""

    sampling: Sampling = "poisson"
    dataset_size: int | None = None
    truncated_batch_size: int | None = None


POISSON = Batches()


def settled(
    read: Callable[["PrivacyLossDistribution"], float],
    history: History,
    *,
    delta: float,
    batches: Batches = POISSON,
) -> tuple[float, bool]:
    """``read`` off ever finer distributions until it moves by less than 0.5 %; and whether it did.

    Each reading is pessimistic, and they fall towards the truth by shrinking amounts. Where they
    stop shrinking, rounding has taken over (see `rounding`) and finer would only be noisier: then
    the larger of the last two is returned, with False.
    """
    previous, last_move = math.inf, math.inf
    for interval in _intervals(history, delta):
        value = read(loss_distribution(history, interval=interval, batches=batches))
        move = abs(previous - value) if math.isfinite(value) else math.inf
        if move <= _SETTLED * value or value == 0:
            return value, True
        if math.isfinite(last_move) and move >= last_move:
            return max(previous, value), False
        previous, last_move = value, move
    return previous, False


def rounding(history: History) -> float:
    """What the Fourier transforms of a composition may lose in δ, by rounding: steps × 2⁻⁵³.

    Each step multiplies transforms of total mass 1, so the error does not shrink with δ. Readers
    take it off δ; unseen at δ = 1e-5, it is a tenth of VaultGemma's δ of 1.1e-10.
    """
    return sum(steps for _, _, steps in history) * 2.0**-53


def _intervals(history: History, delta: float) -> Iterator[float]:
    """Discretisation intervals, each a quarter of the one before.

    The first is a hundredth of the scale that the central limit gives ε, but no finer than
    50 000 to the widest loss of one step; beyond 16 times that a value takes many seconds.
    """
    variance = sum(
        min(steps * rate**2 * math.expm1(min(sigma**-2, 500.0)), steps / sigma**2)
        for sigma, rate, steps in history
    )
    scale = variance / 2 + math.sqrt(variance) * max(1.0, float(-norm.ppf(delta)))
    widest = max(
        math.log1p(rate * math.expm1(min((9 * sigma + 0.5) / sigma**2, 700.0)))
        for sigma, rate, _ in history
    )
    interval = max(0.01 * min(scale, math.sqrt(scale)), widest / 50_000)
    finest = min(interval / 16, widest / 800_000)
    while interval >= finest:
        yield interval
        interval /= 4


def loss_distribution(
    history: History, *, interval: float, batches: Batches = POISSON
) -> "PrivacyLossDistribution":
    """dp-accounting's pessimistic privacy loss distribution of a checked history."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    def one(sigma: float, rate: float) -> "PrivacyLossDistribution":
        if batches.sampling == "truncated_poisson":
            assert batches.dataset_size is not None
            assert batches.truncated_batch_size is not None
            return pld.from_truncated_subsampled_gaussian_mechanism(
                dataset_size=batches.dataset_size,
                sampling_probability=rate,
                truncated_batch_size=batches.truncated_batch_size,
                noise_multiplier=sigma,
                value_discretization_interval=interval,
            )
        return pld.from_gaussian_mechanism(
            standard_deviation=sigma, value_discretization_interval=interval, sampling_prob=rate
        )

    parts = [one(sigma, rate).self_compose(steps) for sigma, rate, steps in history]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total
