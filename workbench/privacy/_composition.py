"""Many steps' loss on one grid, with a bound on everything that floating point can hide.

Losses add, so their distributions convolve, which the Fourier transform does at once (Koskela,
Jälkö & Honkela 2020). Two things make it exact enough to certify, and fast:

*Tilting.* Each mass p(l) becomes w(l) = p(l)·exp(t·l − K(t)). Convolving and tilting commute, so
P(l) = exp(ΣK − t·l)·W(l), and rounding is small beside the W near the ε in question, not beside 1:
it takes a share of δ, however small δ is.

*A short period.* W is wanted between two losses a and b only. By Chernoff's bound the losses above
b weigh less than 1e-4 of δ and are added to δ whole. What lies below a or above b wraps round into
the period, where it only adds to what is there.

What rounding can hide, u = 2⁻⁵³:

1. A transform of N numbers, its twiddles correctly rounded, is a sum over a tree of log₂N levels
   with a complex product and a sum each, so each of its values is off by at most 8u·log₂N times the
   sum of the numbers' sizes (Higham 2002, section 24.1, by the same steps), which is 1 here.
   Weights are off by u·(4 + |log p| + 2|t·l| + |K|) of themselves, power and phase by 32u a step.
   Together |F̂ᵢ − Fᵢ| ≤ ηᵢ for part i of Tᵢ steps.
2. |ΠF̂ᵢ^Tᵢ − ΠFᵢ^Tᵢ| ≤ Σᵢ Tᵢηᵢ/(|F̂ᵢ| + ηᵢ)·G with G = Πⱼ(|F̂ⱼ| + ηⱼ)^Tⱼ, at each frequency, since
   both F̂ᵢ and Fᵢ are at most |F̂ᵢ| + ηᵢ.
3. The inverse transform takes the mean over frequencies and adds an error of 8u·log₂N of the mean
   of G. So no W is off by more than B = mean(G·(Σᵢ Tᵢηᵢ/(|F̂ᵢ| + ηᵢ) + 8u·log₂N)), and B is added
   to every one.
4. One step's δ(ε) is off by at most ρ of P(loss ≥ ε) (`StepLoss.rounding`). Exchanging the steps'
   curves one after another, that moves the composed δ(ε) by at most Σᵢ Tᵢρᵢ of P(sum ≥ ε), and
   summing N masses by at most N·u of it. Twice that is added.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import fft
from scipy.optimize import brentq

from workbench.privacy._losses import StepLoss

_UNIT = 2.0**-53
_SMALL = math.log(1e-4)  # of δ: what a bound may add where being exact would take longer
_LARGEST_EXPONENT = 600.0
_STEEPEST = 2.0  # of the tilt, per interval
# Tilts at which Chernoff's bound is tried, in deviations of the loss and in shares of the tilt.
_DEVIATIONS = np.array([1.0, 2.0, 4.0, 8.0])
_SHARES = np.array([0.2, 1.0, 4.0])

_HIDDEN = 1e-3  # of δ: what rounding may add before a flatter tilt is tried
_FLATTER = 12  # halvings

Parts = Sequence[tuple[StepLoss, int]]  # one step's loss, and how many such steps


class GridTooLargeError(Exception):
    """The grid between the two losses that matter has more points than are allowed."""


@dataclass(frozen=True)
class ComposedLoss:
    """The composed loss as an upper bound: δ and ε read from it are never too small."""

    interval: float
    first: int  # the loss of the first entry, in intervals
    log_mass: np.ndarray  # (losses,) log of an upper bound on the probability of each
    infinite: float  # upper bound on the probability of more than the last
    rounding: float  # ρ
    tilt: float
    log_bound: float  # of B, untilted, at loss 0

    def hidden(self, epsilon: float) -> float:
        """About how much of δ at ``epsilon`` the bound B accounts for."""
        share = math.exp(min(self.log_bound - self.tilt * epsilon, _LARGEST_EXPONENT))
        return share / (self.interval * self.tilt * (1 + self.tilt))

    @property
    def start(self) -> float:
        """The loss of the first entry; δ below it is not known."""
        return self.first * self.interval

    def delta(self, epsilon: np.ndarray) -> np.ndarray:
        """Upper bounds on δ at each ε of either sign, in a flat array; 1 below the `start`."""
        mass = np.exp(np.minimum(self.log_mass, 0))
        decay = np.exp(-self.interval * np.arange(len(mass)))
        places = np.searchsorted(self._losses(), epsilon, side="right")
        values, at_least, under, above = np.ones(len(epsilon)), 0.0, 0.0, len(mass)
        for row in np.argsort(epsilon)[::-1].tolist():
            here = int(places[row])
            between = mass[here:above]
            under = (
                float(between @ decay[: len(between)])
                + math.exp(-self.interval * len(between)) * under
            )
            at_least += float(between.sum())
            above = here
            if here:  # else ε lies below the first loss
                loss = self.interval * (self.first + here)
                less = math.exp(min(epsilon[row] - loss, 0.0)) * under
                exceeded = (1 + self.rounding) * at_least - less
                values[row] = min(1.0, self.infinite + max(exceeded, 0.0))
        return values

    def _losses(self) -> np.ndarray:
        return self.interval * (self.first + np.arange(len(self.log_mass)))

    def epsilon(self, delta: float) -> float:
        """The least ε ≥ 0 on the curve at ``delta``, but not below `start`; infinite if none."""
        room = 1 - self.infinite / delta
        if not room > 0:
            return math.inf
        mass = np.exp(np.minimum(self.log_mass - math.log(delta), _LARGEST_EXPONENT))
        at_least = (1 + self.rounding) * np.cumsum(mass[::-1])[::-1]
        decay = np.exp(-self.interval * np.arange(len(mass)))

        def under(index: int) -> float:
            """Σ over the losses from ``index`` on of mass·exp(loss of index − loss)."""
            return float(mass[index:] @ decay[: len(mass) - index])

        # δ at the loss of an entry counts the entries above it.
        low, high = -1, len(mass) - 1
        while high - low > 1:
            middle = (low + high) // 2
            exceeds = at_least[middle + 1] - under(middle) + mass[middle] > room
            low, high = (middle, high) if exceeds else (low, middle)
        loss = self.interval * (self.first + high)
        if high:
            loss += math.log((at_least[high] - room) / under(high))
        return max(0.0, loss + 1e-12 * abs(loss))


@dataclass(frozen=True)
class _Centred:
    """One step's loss about a whole number of intervals near its tilted mean."""

    centre: int
    offset: int  # of the first loss from the centre, in intervals
    loss: np.ndarray  # from the centre
    log_mass: np.ndarray
    steps: int

    @classmethod
    def at(cls, tilt: float, step: StepLoss, steps: int, interval: float) -> "_Centred":
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


def _moments(parts: Sequence[_Centred], tilt: float) -> tuple[float, float, float]:
    """The same of all steps together."""
    each = [(part.moments(tilt), part.steps) for part in parts]
    K, mean, variance = (sum(of[i] * steps for of, steps in each) for i in range(3))
    return K, mean, variance


def composed_for_delta(
    parts: Parts, interval: float, delta: float, *, largest: int
) -> ComposedLoss:
    """The composed loss about the ε of ``delta``.

    Raises `GridTooLargeError` where that takes more than ``largest`` points.
    """
    centred = _centred(parts, interval)
    log_delta = math.log(delta)

    def lacking(tilt: float) -> float:
        """How far the saddle point's δ (see `_saddle`) is below δ, in logarithms."""
        K, mean, variance = _moments(centred, tilt)
        late = tilt / (1 + tilt)
        curvature = tilt**2 * variance + 1 + late**2
        spread = math.log1p(tilt) + math.log(2 * math.pi * curvature) / 2
        return tilt * mean - K - 1 - late + spread + log_delta

    tilt = _root(lacking, centred, interval, math.sqrt(-2 * log_delta))

    def read(loss: ComposedLoss) -> tuple[float, float]:
        epsilon = loss.epsilon(delta)
        return epsilon, loss.hidden(epsilon) / delta

    return _flattened(lambda tilt: _composed(parts, interval, tilt, log_delta, largest), tilt, read)


def composed_for_epsilon(
    parts: Parts, interval: float, epsilon: float, *, largest: int
) -> ComposedLoss:
    """The composed loss about ``epsilon``; otherwise as `composed_for_delta`."""
    centred = _centred(parts, interval)
    above = epsilon - interval * sum(part.centre * part.steps for part in centred)

    def lacking(tilt: float) -> float:
        return _moments(centred, tilt)[1] - above

    tilt = _root(lacking, centred, interval, 1.0)

    def compose(tilt: float) -> ComposedLoss:
        log_delta = min(_moments(centred, tilt)[0] - tilt * above, -0.1)
        return _composed(parts, interval, tilt, log_delta, largest)

    def read(loss: ComposedLoss) -> tuple[float, float]:
        delta = float(loss.delta(np.array([epsilon]))[0])
        return delta, loss.hidden(epsilon) / max(delta, 1e-300)

    return _flattened(compose, tilt, read)


def _flattened(
    compose: Callable[[float], ComposedLoss],
    tilt: float,
    read: Callable[[ComposedLoss], tuple[float, float]],
) -> ComposedLoss:
    """The composed loss of the tilt whose reading is lowest; ``read`` also gives rounding's share.

    Where a few rare losses decide, no saddle point shows where, and a flatter tilt rounds less.
    """
    best = compose(tilt)
    lowest, hidden = read(best)
    for _ in range(_FLATTER):
        if hidden <= _HIDDEN:
            break
        tilt /= 2
        try:
            loss = compose(tilt)
        except GridTooLargeError:
            break
        reading, hidden = read(loss)
        if reading < lowest:
            best, lowest = loss, reading
    return best


def composed_untilted(parts: Parts, interval: float, *, largest: int) -> ComposedLoss:
    """The composed loss wherever it has probability worth counting."""
    return _composed(parts, interval, 0.0, math.log(1e-8), largest)


def _centred(parts: Parts, interval: float) -> list[_Centred]:
    return [_Centred.at(0.0, step, steps, interval) for step, steps in parts]


def _root(
    lacking: Callable[[float], float],
    parts: Sequence[_Centred],
    interval: float,
    deviations: float,
) -> float:
    """The tilt at which ``lacking``, which rises with it, passes 0; roughly, which is enough."""
    steepest = _STEEPEST / interval
    spread = math.sqrt(_moments(parts, 0.0)[2])
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


def _composed(
    parts: Parts, interval: float, tilt: float, log_delta: float, largest: int
) -> ComposedLoss:
    centred = [_Centred.at(tilt, step, steps, interval) for step, steps in parts]
    K, _, _ = _moments(centred, tilt)
    first, points, log_beyond = _window(centred, tilt, log_delta, interval)
    if points > largest:
        raise GridTooLargeError
    size = _fast_size(max(points, 64))
    weight, bound = _power(centred, tilt, size)
    weight = np.roll(weight, -(first % size))
    loss = interval * (first + np.arange(size))  # from the sum of the centres
    exact = 4 * _UNIT * (abs(K) + tilt * max(abs(loss[0]), abs(loss[-1])))
    log_mass = np.log(np.maximum(weight, 0) + bound) + (K + exact) - tilt * loss
    origin = interval * sum(part.centre * part.steps for part in centred)
    lost = -math.expm1(sum(steps * math.log1p(-step.infinite) for step, steps in parts))
    return ComposedLoss(
        interval=interval,
        first=first + sum(part.centre * part.steps for part in centred),
        log_mass=log_mass,
        infinite=math.exp(min(log_beyond, 0.0)) + lost,
        tilt=tilt,
        log_bound=math.log(bound) + K + tilt * origin,
        rounding=2 * _UNIT * (size + sum(steps * step.rounding for step, steps in parts)),
    )


def _window(
    parts: Sequence[_Centred], tilt: float, log_delta: float, interval: float
) -> tuple[int, int, float]:
    """The least loss at which W is wanted, how many, and the log of a bound on P above them.

    Losses are whole intervals from the sum of the centres.
    """
    K, mean, variance = _moments(parts, tilt)
    spread = max(math.sqrt(variance), interval)
    tilts = np.unique(np.concatenate((_DEVIATIONS / spread, _SHARES * tilt)))
    tilts = tilts[tilts > 0].tolist()
    steeper = [(more, _moments(parts, tilt + more)[0]) for more in tilts]
    flatter = [(less, _moments(parts, tilt - less)[0]) for less in tilts]
    # Losses above this one weigh little in δ.
    high, (more, higher) = min(
        ((higher - log_delta - _SMALL) / (tilt + more), (more, higher)) for more, higher in steeper
    )
    # Beyond these two the tilted loss weighs little, also after wrapping round: it weighs
    # exp(K − t·ε) in δ, which is more than δ by about this factor.
    factor = math.log1p(math.sqrt(2 * math.pi) * spread * tilt * (1 + tilt))
    log_share = _SMALL - factor
    low = max((log_share - (lower - K)) / less for less, lower in flatter)
    highest = min((higher - K - log_share) / more for more, higher in steeper)
    low = min(low, mean)
    if tilt:
        low -= 3 / tilt
    # Nothing lies outside what the losses can come to.
    least = sum(part.offset * part.steps for part in parts)
    most = sum((part.offset + len(part.loss) - 1) * part.steps for part in parts)
    first = max(math.floor(low / interval), least - 1)
    last = min(math.ceil(max(high, highest) / interval), most)
    log_beyond = higher - (tilt + more) * last * interval if last < most else -math.inf
    return first, last - first + 1, log_beyond


def _power(parts: Sequence[_Centred], tilt: float, size: int) -> tuple[np.ndarray, float]:
    """W on a period of ``size``, and B, which is more than any entry can be off by."""
    transforms = 8 * _UNIT * math.log2(size)
    modulus, phase, slack, larger = (np.zeros(size // 2 + 1) for _ in range(4))
    for part in parts:
        K = part.moments(tilt)[0]
        tilted = tilt * part.loss
        weight = np.exp(part.log_mass + tilted - K)
        seen = weight > 0
        off = np.abs(part.log_mass[seen]) + 2 * np.abs(tilted[seen])
        error = transforms + _UNIT * (36 + abs(K) + float(weight[seen] @ off))
        transform = fft.rfft(_wrapped(weight, part.offset, size))
        size_of = np.abs(transform)
        modulus += part.steps * np.log(np.maximum(size_of, 1e-300))
        phase += part.steps * np.angle(transform)
        slack += part.steps * error / (size_of + error)
        larger += part.steps * np.log(size_of + error)
    bound = 2 * float(np.exp(larger) @ (slack + transforms)) / size
    spectrum = np.exp(modulus) * np.exp(1j * phase)
    return fft.irfft(spectrum, size), bound


def _fast_size(points: int) -> int:
    """The least 2ᵃ·3ᵇ of at least ``points``, b up to 4: transforms of it are fast."""
    return min(3**power << (-(-points // 3**power) - 1).bit_length() for power in range(5))


def _wrapped(weight: np.ndarray, offset: int, size: int) -> np.ndarray:
    """Weights from ``offset`` on, added up on a period that begins at 0."""
    lead = offset % size
    rows = -(-(lead + len(weight)) // size)
    padded = np.zeros(rows * size)
    padded[lead : lead + len(weight)] = weight
    return padded.reshape(rows, size).sum(axis=0)
