"""What the last weights alone could show of a record, under a linear loss: a heuristic."""

import math

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import binom

from workbench.audit.gaussian import log1mexp, root_between
from workbench.errors import InputError, probability, whole


def last_iterate_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, *, delta: float
) -> float:
    """What an attacker could show who sees the last weights alone, if the loss were linear.

    A heuristic, neither a bound nor a guarantee: a record then moves the last iterate by its
    number of uses, so that Bin(T, q) + N(0, Tσ²) stands against N(0, Tσ²); the worse direction
    counts. It explains why audits of final weights find less than the accountant allows. Source:
    Steinke, Nasr, Ganesh et al. 2024 (arXiv 2410.06186).

    Args:
        noise_multiplier: σ > 0.
        sample_rate: q in (0, 1].
        steps: T ≥ 1.
        delta: δ in (0, 1).
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise InputError(
            f"noise_multiplier is {noise_multiplier:g} but must be a finite number above 0; add "
            "noise, for example 1.0."
        )
    probability("sample_rate", sample_rate, one=True, remedy="keep the batch within the data set")
    steps = whole("steps", steps, least=1, remedy="count optimizer steps")
    probability("delta", delta, remedy="choose one such as 1e-5")
    pair = _LastIterate(noise_multiplier * math.sqrt(steps), sample_rate, steps)
    return max(pair.epsilon(delta, added=True), pair.epsilon(delta, added=False))


class _LastIterate:
    """Bin(T, q) + N(0, s²) against N(0, s²); their log ratio rises with the observation x."""

    def __init__(self, deviation: float, sample_rate: float, steps: int) -> None:
        reach = 45 * math.sqrt(steps * sample_rate * (1 - sample_rate)) + 45
        low = max(0, math.floor(steps * sample_rate - reach))
        high = min(steps, math.ceil(steps * sample_rate + reach))
        self.uses = np.arange(low, high + 1)
        self.weights = binom.logpmf(self.uses, steps, sample_rate)
        self.deviation = deviation
        spread = 45 * deviation
        self.lowest, self.highest = -spread, high + spread

    def log_ratio(self, x: float) -> float:
        """Log of the density with the record over that without."""
        exponents = (2 * self.uses * x - self.uses**2) / (2 * self.deviation**2)
        return float(np.logaddexp.reduce(self.weights + exponents))

    def epsilon(self, delta: float, *, added: bool) -> float:
        """The ε at ``delta`` of one direction, read off the threshold test of each ε."""
        sign = 1.0 if added else -1.0

        def excess(x: float) -> float:
            epsilon = sign * self.log_ratio(x)
            z = sign * x / self.deviation
            tails = -sign * (x - self.uses) / self.deviation
            with_it = float(np.logaddexp.reduce(self.weights + log_ndtr(tails)))
            without = float(log_ndtr(-z))
            more, less = (with_it, without) if added else (without, with_it)
            return more + log1mexp(min(epsilon + less - more, 0.0)) - math.log(delta)

        # The threshold at which ε = 0, from which ε grows in this test's direction.
        start = root_between(self.log_ratio, self.lowest, self.highest)
        if excess(start) <= 0:
            return 0.0
        end = self.highest if added else self.lowest
        if excess(end) > 0:  # ε has an upper limit here, as where q < 1 bounds the ratio
            return sign * self.log_ratio(end)
        return max(0.0, sign * self.log_ratio(root_between(excess, start, end)))
