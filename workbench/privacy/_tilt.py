"""Where one step's loss lies once it is tilted, and which tilt brings it to the ε in question.

Nothing here has to be exact: any tilt and any centre give a bound (`_composition`), these a low
one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from workbench.privacy._losses import StepLoss

_STEEPEST = 2.0  # of the tilt, per interval

Parts = Sequence[tuple[StepLoss, int]]  # one step's loss, and how many such steps


@dataclass(frozen=True)
class Centred:
    """One step's loss about a whole number of intervals near its tilted mean."""

    centre: int
    offset: int  # of the first loss from the centre, in intervals
    loss: np.ndarray  # from the centre
    log_mass: np.ndarray
    steps: int

    @classmethod
    def at(cls, tilt: float, step: StepLoss, steps: int, interval: float) -> "Centred":
        index = np.arange(len(step.log_mass))
        log_weight = step.log_mass + tilt * interval * index
        weight = np.exp(log_weight - log_weight.max())
        middle = round(float(weight @ index / weight.sum()))
        return cls(step.first + middle, -middle, interval * (index - middle), step.log_mass, steps)

    def moments(self, tilt: float) -> tuple[float, float, float]:
        """K(t), K′(t), K″(t) of one step about its centre."""
        log_weight = self.log_mass + tilt * self.loss
        most = float(log_weight.max())
        weight = np.exp(log_weight - most)
        total = float(weight.sum())
        mean = float(weight @ self.loss) / total
        square = float(np.vdot(weight * self.loss, self.loss)) / total
        return most + math.log(total), mean, max(square - mean**2, 0.0)


def moments(parts: Sequence[Centred], tilt: float) -> tuple[float, float, float]:
    """The same of all steps together."""
    each = [(part.moments(tilt), part.steps) for part in parts]
    K, mean, variance = (sum(of[i] * steps for of, steps in each) for i in range(3))
    return K, mean, variance


def root(
    lacking: Callable[[float], float],
    parts: Sequence[Centred],
    interval: float,
    deviations: float,
) -> float:
    """The tilt at which ``lacking``, which rises with it, passes 0; roughly, which is enough."""
    steepest = _STEEPEST / interval
    spread = math.sqrt(moments(parts, 0.0)[2])
    guess = min(deviations / spread, steepest) if spread > 0 else steepest
    low, high = guess, guess
    while lacking(high) < 0:
        if high >= steepest:
            return steepest
        low, high = high, min(high * 4, steepest)
    while lacking(low) > 0:
        if low < guess * 1e-4:
            return low
        low, high = low / 4, low
    if low == high:
        return low
    return math.exp(
        brentq(lambda log: lacking(math.exp(log)), math.log(low), math.log(high), xtol=1e-2)  # type: ignore[arg-type]
    )
