"""The composed loss, and δ and ε read from it, never too small.

One step's computed curve δ̂ falls short of the true one by at most a share of itself: δ ≤ (1 + ρu)·δ̂
at every loss, u = 2⁻⁵³ (`_losses`). A composition's δ is a mean of one step's δ over the loss of
all others, so steps can be exchanged one after another, and T steps take (1 + ρu)^T of the composed
δ, however small it is. A sum of N positive numbers is off by at most a few N·u of itself. Between
two losses of the grid δ is a straight line in e^ε.
"""

import math
from dataclasses import dataclass

import numpy as np

_UNIT = 2.0**-53
_LARGEST_EXPONENT = 600.0


@dataclass(frozen=True)
class ComposedLoss:
    """The composed loss as an upper bound: δ and ε read from it are never too small."""

    interval: float
    first: int  # the loss of the first entry, in intervals
    log_mass: np.ndarray  # (losses,) log of an upper bound on the probability of each
    infinite: float  # upper bound on the probability of more than the last
    steps: float  # (1 + ρu)^T: times the computed δ, what the true one is at most
    tilt: float
    log_bound: float  # of what every tilted mass was raised by, untilted, at loss 0

    def hidden(self, epsilon: float) -> float:
        """About how much of δ at ``epsilon`` the bound on the composition's rounding makes up."""
        share = math.exp(min(self.log_bound - self.tilt * epsilon, _LARGEST_EXPONENT))
        return share / (self.interval * self.tilt * (1 + self.tilt))

    @property
    def start(self) -> float:
        """The loss of the first entry; δ below it is not known."""
        return self.first * self.interval

    def delta(self, epsilon: np.ndarray) -> np.ndarray:
        """Upper bounds on δ at each ε of either sign, in a flat array; 1 below the `start`."""
        mass = np.exp(np.minimum(self.log_mass, 0))
        rise, decay = self._rise_and_decay()
        losses = self.interval * (self.first + np.arange(len(mass)))
        places = np.searchsorted(losses, epsilon, side="right")
        # Of the entries from ``above`` on: δ at that entry's loss, and Σ mass·exp(its loss − loss).
        values, delta, under, above = np.ones(len(epsilon)), 0.0, 0.0, len(mass)
        for row in np.argsort(epsilon)[::-1].tolist():
            here = int(places[row])
            between, gap = mass[here:above], self.interval * (above - here)
            delta += float(between @ rise[: len(between)]) - math.expm1(-gap) * under
            under = float(between @ decay[: len(between)]) + math.exp(-gap) * under
            above = here
            if here:  # else ε lies below the first loss
                loss = self.interval * (self.first + here)
                exceeded = delta - math.expm1(min(epsilon[row] - loss, 0.0)) * under
                values[row] = min(1.0, self.infinite + self._share * exceeded)
        return values

    def epsilon(self, delta: float) -> float:
        """The least ε ≥ 0 on the curve at ``delta``, but not below `start`; infinite if none."""
        room = (1 - self.infinite / delta) / self._share
        if not room > 0:
            return math.inf
        mass = np.exp(np.minimum(self.log_mass - math.log(delta), _LARGEST_EXPONENT))
        rise, decay = self._rise_and_decay()

        def at(index: int) -> float:
            """δ at the loss of an entry."""
            return float(mass[index:] @ rise[: len(mass) - index])

        low, high = -1, len(mass) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if at(middle) > room else (low, middle)
        loss = self.interval * (self.first + high)
        if high:
            under = float(mass[high:] @ decay[: len(mass) - high])
            loss += math.log1p(-min((room - at(high)) / under, -math.expm1(-self.interval)))
        return max(0.0, loss + 1e-12 * abs(loss))

    @property
    def _share(self) -> float:
        """What δ as computed from the masses is multiplied by, so that it is never too small."""
        return self.steps * (1 + 16 * _UNIT * len(self.log_mass))

    def _rise_and_decay(self) -> tuple[np.ndarray, np.ndarray]:
        """1 − e^(−l) and e^(−l) at losses from 0 on; δ is a sum of what is positive.

        As a difference of two sums it would be lost where losses are small.
        """
        losses = self.interval * np.arange(len(self.log_mass))
        return -np.expm1(-losses), np.exp(-losses)
