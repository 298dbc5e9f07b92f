"""A run's own trade-off curve against one run's guesses: is *this* (σ, q, T) what was run?

Source: the test of Mahloujifar, Melis & Chaudhuri 2024 (arXiv 2410.22235), on the curve that the
privacy loss distribution of the mechanism gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.audit.bounds import one_run_fdp_p_value, one_run_rejects
from workbench.privacy.accountant import checked_history
from workbench.privacy.pld import delta_curve, settled_epsilon
from workbench.privacy.schedule import History

_LEVELS, _LOWEST = 1001, -25.0
_STEPS = 7  # of the bisection: σ to about one per cent
_WIDEST = 8.0  # times the run's own σ or its inverse, where the search ends


@dataclass(frozen=True)
class OwnCurve:
    """What one run's guesses say of the mechanism that the run claims.

    Attributes:
        p_value: how likely as many right guesses are under the claimed mechanism, at most.
        rejected: whether that is at most the significance: the mechanism was not run as claimed.
        sigma_limit: every noise multiplier above it is refuted, with q and T as claimed (all σ of a
            schedule scaled alike, of which this is the first); infinite if none is. Below the σ
            claimed, the claim is refuted.
        significance: of the test.
        counts: ``n_canaries``, ``n_guesses`` and ``n_correct``.
    """

    p_value: float
    rejected: bool
    sigma_limit: float
    significance: float
    counts: dict[str, int]

    def __str__(self) -> str:
        told = "rejects" if self.rejected else "does not reject"
        found = math.isfinite(self.sigma_limit)
        below = f"; every σ above {self.sigma_limit:.3g} is" if found else "; no σ is"
        return (
            f"{told} the run's own curve: p = {self.p_value:.2g} at a level of "
            f"{self.significance:g}{below} rejected with its q and steps"
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "kind": "rejects a curve",
            "p_value": self.p_value,
            "rejected": self.rejected,
            "sigma_limit": self.sigma_limit if math.isfinite(self.sigma_limit) else None,
            "significance": self.significance,
            "counts": self.counts,
            "words": str(self),
        }


def mechanism_inverse(history: History) -> Callable[[float], float]:
    """f̄⁻¹ of a Poisson-sampled run: the smallest false positive rate that allows a true one.

    The ceiling is the lowest of the lines e^ε·FPR + δ(ε) (`privacy.mechanism_ceiling`), so its
    inverse is max over ε of (TPR − δ(ε))·e^{−ε}, exact for these lines.

    >>> round(mechanism_inverse([(1.0, 1.0, 1)])(0.4), 3)  # Φ(Φ⁻¹(0.4) − 1)
    0.105
    """
    steps = checked_history(history)
    if not steps:
        return lambda rate: rate
    reach = max(1.0, settled_epsilon(steps, 1e-10).value)
    # Further down e^{−ε} would magnify rounding; without those lines less is rejected, not more.
    levels = np.linspace(max(-reach, _LOWEST), reach, _LEVELS)
    delta = delta_curve(steps, levels)
    shrink = np.exp(-levels)

    def inverse(rate: float) -> float:
        return float(min(rate, max(0.0, ((rate - delta) * shrink).max())))

    return inverse


def compared_with_own_curve(
    history: History, n_canaries: int, n_guesses: int, n_correct: int, *, significance: float
) -> OwnCurve:
    """Test the mechanism of ``history`` by one run's guesses, and look for the σ that they refute.

    Args:
        history: the run's steps as (σ, q, steps), Poisson-sampled.
        n_canaries: records that fair coins sent in or out.
        n_guesses: fixed beforehand.
        n_correct: how many were right.
        significance: of the test.
    """
    counts = (n_canaries, n_guesses, n_correct)
    p_value = one_run_fdp_p_value(mechanism_inverse(history), *counts)

    def refuted(factor: float) -> bool:
        scaled = [(sigma * factor, rate, steps) for sigma, rate, steps in history]
        return one_run_rejects(mechanism_inverse(scaled), *counts, significance=significance)

    # Where not even perfect privacy is refuted, no σ is.
    any_is = one_run_rejects(lambda rate: rate, *counts, significance=significance)
    factor = _boundary(refuted, p_value <= significance) if any_is else math.inf
    return OwnCurve(
        p_value=p_value,
        rejected=p_value <= significance,
        sigma_limit=factor * history[0][0],
        significance=significance,
        counts=dict(zip(("n_canaries", "n_guesses", "n_correct"), counts, strict=True)),
    )


def _boundary(refuted: Callable[[float], bool], own: bool) -> float:
    """The largest factor of σ that is not refuted: more noise explains the guesses still less.

    Infinite if that is more than eight, and an eighth if it is less.
    """
    low, high = (1 / _WIDEST, 1.0) if own else (1.0, _WIDEST)
    if not own and not refuted(high):
        return math.inf
    if own and refuted(low):
        return low
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high  # from above: all σ beyond it are refuted
