"""ε and δ from the composed privacy loss itself, refined until they settle.

Every reading is an upper bound, whatever the interval (`_losses`, `_composition`), so the smallest
is taken. Intervals are powers of 2: the multiples of one are also multiples of every finer one,
whose readings are then never larger.

>>> distribution = loss_distribution([(1.0, 0.01, 1000)], interval=2**-12, delta=1e-5)
>>> round(distribution.epsilon(1e-5), 2)
1.83
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from workbench.privacy._composition import (
    ComposedLoss,
    GridTooLargeError,
    Parts,
    composed_for_delta,
    composed_for_epsilon,
    composed_untilted,
)
from workbench.privacy._losses import POISSON, Batches, StepCurve
from workbench.privacy.schedule import History

__all__ = [
    "POISSON",
    "Batches",
    "Reading",
    "delta_curve",
    "loss_distribution",
    "settled_delta",
    "settled_epsilon",
]

_SETTLED = 0.005  # a reading counts as settled when a finer one differs by less than 0.5 %
_FINER = 2  # each interval is 2⁻² of the one before
_FIRST_SHARE = 0.25  # of one step's deviation: the first interval
_FIRST_LOSSES = (512, 4096)  # of one step at the first interval
_FIRST_LOSSES_TOGETHER = 1 << 17  # of all parts
_MOST_LOSSES = 1 << 22  # of all parts: about 3 s
_LONGEST_PERIOD = 1 << 22  # about 1 s and 0.5 GB
_SMALL = math.log(1e-4)  # of δ: what is cut off may add
_LEAST_LOG_TAIL = -700.0  # below it exp is 0
_COARSER = 40  # times that the first interval may turn out too fine
_CEILING_DELTA = 1e-6  # about where ceilings are wanted sharp
_LEAST_DELTA = 1e-290
_LEAST_RATE = 1e-100  # stands for lower ones, which cost less: a float holds its square
_LARGEST_EPSILON = 1e13  # more than all losses that are accounted come to


class Reading(NamedTuple):
    """An upper bound on ε or δ, and whether a finer interval would hardly lower it."""

    value: float
    settled: bool
    exponent: int  # the interval is 2 to this


class _Mechanism(NamedTuple):
    """The steps of a history as curves, and how finely to look at them first."""

    curves: list[tuple[StepCurve, int]]
    log_tail: float
    exponent: int  # of the first interval
    resolved: int  # of the interval that resolves the loss of most steps

    def parts(self, exponent: int, *, added: bool) -> Parts:
        """Every part's loss on multiples of 2 to the ``exponent``."""
        return [
            (curve.on_grid(2.0**exponent, self.log_tail, added=added), steps)
            for curve, steps in self.curves
        ]

    def losses(self, exponent: int) -> float:
        """How many losses `parts` would have together."""
        reaches = [curve.reach(self.log_tail) for curve, _ in self.curves]
        return sum(high - low for low, high in reaches) / 2.0**exponent

    @property
    def symmetric(self) -> bool:
        """Whether removing a record and adding one cost the same."""
        return all(curve.symmetric for curve, _ in self.curves)


_Read = Callable[[Parts, float], float]  # of parts and interval; may raise GridTooLargeError


def settled_epsilon(history: History, delta: float, *, batches: Batches = POISSON) -> Reading:
    """The smallest certified ε at ``delta`` of a checked history, in the worse direction."""

    def read(parts: Parts, interval: float) -> float:
        loss = composed_for_delta(parts, interval, delta, largest=_LONGEST_PERIOD)
        return loss.epsilon(delta)

    return _worse(_mechanism(history, delta, batches), read)


def settled_delta(history: History, epsilon: float) -> Reading:
    """The smallest certified δ at ``epsilon``, otherwise as `settled_epsilon`."""
    epsilon = min(epsilon, _LARGEST_EPSILON)

    def read(parts: Parts, interval: float) -> float:
        loss = composed_for_epsilon(parts, interval, epsilon, largest=_LONGEST_PERIOD)
        return float(loss.delta(np.array([epsilon]))[0])

    # What is cut off must be small beside δ, whose size is only known afterwards.
    assumed = _CEILING_DELTA
    while True:
        found = _worse(_mechanism(history, assumed, POISSON), read)
        if found.value >= 0.01 * assumed or assumed <= _LEAST_DELTA:
            return found
        assumed = max(found.value, _LEAST_DELTA)


def delta_curve(history: History, epsilon: np.ndarray) -> np.ndarray:
    """Upper bounds on δ at each ε of either sign, a flat array, finest where δ is about 1e-6."""
    mechanism = _mechanism(history, _CEILING_DELTA * 1e-4, POISSON)

    def curves(exponent: int, *, added: bool) -> np.ndarray:
        parts, interval = mechanism.parts(exponent, added=added), 2.0**exponent
        tilted = composed_for_delta(parts, interval, _CEILING_DELTA, largest=_LONGEST_PERIOD)
        whole = composed_untilted(parts, interval, largest=_LONGEST_PERIOD)
        return np.minimum(tilted.delta(epsilon), whole.delta(epsilon))

    def read(parts: Parts, interval: float) -> float:
        loss = composed_for_delta(parts, interval, _CEILING_DELTA, largest=_LONGEST_PERIOD)
        return loss.epsilon(_CEILING_DELTA)

    start = _refined(mechanism, read, added=False, enough=0.0).exponent
    for exponent in range(start, start + _FINER * _COARSER, _FINER):
        try:
            removed = curves(exponent, added=False)
            if mechanism.symmetric:
                return removed
            return np.maximum(removed, curves(exponent, added=True))
        except GridTooLargeError:
            continue
    return np.ones(len(epsilon))


def loss_distribution(
    history: History,
    *,
    interval: float,
    delta: float,
    batches: Batches = POISSON,
    added: bool = False,
) -> ComposedLoss:
    """The composed loss of a checked history at one interval, good about the ε of ``delta``."""
    mechanism = _mechanism(history, delta, batches)
    parts = [
        (curve.on_grid(interval, mechanism.log_tail, added=added), steps)
        for curve, steps in mechanism.curves
    ]
    return composed_for_delta(parts, interval, delta, largest=_LONGEST_PERIOD)


def _worse(mechanism: _Mechanism, read: _Read) -> Reading:
    """The larger reading of the two directions."""
    removed = _refined(mechanism, read, added=False, enough=0.0)
    if mechanism.symmetric:
        return removed
    added = _refined(mechanism, read, added=True, enough=removed.value)
    worse = max(removed, added)
    return worse._replace(settled=removed.settled and added.settled)


def _refined(mechanism: _Mechanism, read: _Read, *, added: bool, enough: float) -> Reading:
    """``read`` at ever finer intervals until it moves by less than 0.5 %.

    Before the interval resolves the loss of most steps, it must do so twice: a reading may stand
    still while rare losses decide it, and fall again once the others are resolved. A reading of at
    most ``enough`` will do. Where a finer interval would take too long, the last reading is
    returned as not settled.
    """

    def at(exponent: int) -> float:
        return read(mechanism.parts(exponent, added=added), 2.0**exponent)

    exponent, previous = _first_reading(at, mechanism.exponent)
    agreed = 0
    while previous > enough:
        finer = exponent - _FINER
        if mechanism.losses(finer) > _MOST_LOSSES:
            return Reading(previous, False, exponent)
        try:
            value = min(at(finer), previous)
        except GridTooLargeError:
            return Reading(previous, False, exponent)
        agreed = agreed + 1 if previous - value <= _SETTLED * value else 0
        if agreed >= (1 if finer <= mechanism.resolved else 2):
            return Reading(value, True, finer)
        exponent, previous = finer, value
    return Reading(previous, True, exponent)


def _first_reading(at: Callable[[int], float], exponent: int) -> tuple[int, float]:
    """The first interval from 2 to the ``exponent`` up whose grid is not too large."""
    for coarser in range(exponent, exponent + _FINER * _COARSER, _FINER):
        try:
            return coarser, at(coarser)
        except GridTooLargeError:
            continue
    return exponent + _FINER * _COARSER, math.inf


def _mechanism(history: History, delta: float, batches: Batches) -> _Mechanism:
    """The curves, and as first interval a quarter of what one step's loss deviates by.

    That is where pessimistic rounding begins to be small beside the loss; where rare losses are
    far larger, the first interval is coarser, and `_refined` finds out whether it is too coarse.
    """
    history = [(sigma, max(rate, _LEAST_RATE), steps) for sigma, rate, steps in history]
    curves = [(StepCurve.of(sigma, rate, batches), steps) for sigma, rate, steps in history]
    steps = sum(steps for _, steps in curves)
    log_tail = max(math.log(delta) + _SMALL - math.log(steps), _LEAST_LOG_TAIL)
    variance = sum(
        count * min(rate**2 * math.expm1(min(sigma**-2, 500.0)), sigma**-2)
        for sigma, rate, count in history
    )
    widest = max(high - low for low, high in (curve.reach(log_tail) for curve, _ in curves))
    least, most = _FIRST_LOSSES
    losses = min(most, max(least, _FIRST_LOSSES_TOGETHER // len(curves)))
    resolved = _FIRST_SHARE * math.sqrt(variance / steps)
    return _Mechanism(
        curves,
        log_tail,
        exponent=math.ceil(math.log2(max(resolved, widest / losses))),
        resolved=math.ceil(math.log2(resolved)),
    )
