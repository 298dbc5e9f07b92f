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
   Weights are off by u·(4 + 2|log p| + 3|t·l| + |K|) of themselves: rounding of t·l, of two sums
   and of exp. Adding up those that share a place of the period takes (rows − 1)·u; power, phase and
   the product with the other parts take 32u a step. Together |F̂ᵢ − Fᵢ| ≤ ηᵢ for part i of Tᵢ steps.
2. |ΠF̂ᵢ^Tᵢ − ΠFᵢ^Tᵢ| ≤ Σᵢ Tᵢηᵢ/(|F̂ᵢ| + ηᵢ)·G with G = Πⱼ(|F̂ⱼ| + ηⱼ)^Tⱼ, at each frequency, since
   both F̂ᵢ and Fᵢ are at most |F̂ᵢ| + ηᵢ.
3. The inverse transform takes the mean over frequencies and adds an error of 8u·log₂N of the mean
   of G. So no W is off by more than B = mean(G·(Σᵢ Tᵢηᵢ/(|F̂ᵢ| + ηᵢ) + 8u·log₂N)), and B is added
   to every one. A hundredth more covers the rounding of B itself.
4. W is untilted with the very K by which it was tilted, so only rounding of the products and sums
   counts: u·(4 + parts)·(Σ Tᵢ|Kᵢ| + |t·l|) in the exponent.
5. Losses above b: any K makes W right, but Chernoff's bound needs the true one, and Tᵢ·Kᵢ is off by
   about 30u·Tᵢ, under 1e-5 up to 1e9 steps. A hundredth more covers it.

By how much one step's computed curve may fall short of the true one is in `_composed_loss`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy import fft

from workbench.privacy._composed_loss import ComposedLoss
from workbench.privacy._tilt import Centred, Parts, moments, root

_UNIT = 2.0**-53
_SMALL = math.log(1e-4)  # of δ: what a bound may add where being exact would take longer
# Tilts at which Chernoff's bound is tried, in deviations of the loss and in shares of the tilt.
_DEVIATIONS = np.array([1.0, 2.0, 4.0, 8.0])
_SHARES = np.array([0.2, 1.0, 4.0])

_HIDDEN = 1e-3  # of δ: what rounding may add before a flatter tilt is tried
_FLATTER = 12  # halvings
_MORE = 1.01  # times a bound, for its own rounding


class GridTooLargeError(Exception):
    """The grid between the two losses that matter has more points than are allowed."""


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
        K, mean, variance = moments(centred, tilt)
        late = tilt / (1 + tilt)
        curvature = tilt**2 * variance + 1 + late**2
        spread = math.log1p(tilt) + math.log(2 * math.pi * curvature) / 2
        return tilt * mean - K - 1 - late + spread + log_delta

    tilt = root(lacking, centred, interval, math.sqrt(-2 * log_delta))

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
        return moments(centred, tilt)[1] - above

    tilt = root(lacking, centred, interval, 1.0)

    def compose(tilt: float) -> ComposedLoss:
        log_delta = min(moments(centred, tilt)[0] - tilt * above, -0.1)
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


def _centred(parts: Parts, interval: float) -> list[Centred]:
    return [Centred.at(0.0, step, steps, interval) for step, steps in parts]


def _composed(
    parts: Parts, interval: float, tilt: float, log_delta: float, largest: int
) -> ComposedLoss:
    centred = [Centred.at(tilt, step, steps, interval) for step, steps in parts]
    K, _, _ = moments(centred, tilt)
    first, points, log_beyond = _window(centred, tilt, log_delta, interval)
    if points > largest:
        raise GridTooLargeError
    size = _fast_size(max(points, 64))
    weight, bound = _power(centred, tilt, size)
    weight = np.roll(weight, -(first % size))
    loss = interval * (first + np.arange(size))  # from the sum of the centres
    sizes = sum(part.steps * abs(part.moments(tilt)[0]) for part in centred)
    exact = (4 + len(parts)) * _UNIT * (sizes + tilt * max(abs(loss[0]), abs(loss[-1])))
    log_mass = np.log(np.maximum(weight, 0) + bound) + (K + exact) - tilt * loss
    origin = interval * sum(part.centre * part.steps for part in centred)
    lost = -math.expm1(sum(steps * math.log1p(-step.infinite) for step, steps in parts))
    misjudged = math.exp(_MORE * _UNIT * sum(steps * step.rounding for step, steps in parts))
    return ComposedLoss(
        interval=interval,
        first=first + sum(part.centre * part.steps for part in centred),
        log_mass=log_mass,
        infinite=_MORE * (math.exp(min(log_beyond, 0.0)) + lost * misjudged),
        steps=misjudged,
        tilt=tilt,
        log_bound=math.log(bound) + K + tilt * origin,
    )


def _window(
    parts: Sequence[Centred], tilt: float, log_delta: float, interval: float
) -> tuple[int, int, float]:
    """The least loss at which W is wanted, how many, and the log of a bound on P above them.

    Losses are whole intervals from the sum of the centres.
    """
    K, mean, variance = moments(parts, tilt)
    spread = max(math.sqrt(variance), interval)
    tilts = np.unique(np.concatenate((_DEVIATIONS / spread, _SHARES * tilt)))
    tilts = tilts[tilts > 0].tolist()
    steeper = [(more, moments(parts, tilt + more)[0]) for more in tilts]
    flatter = [(less, moments(parts, tilt - less)[0]) for less in tilts]
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


def _power(parts: Sequence[Centred], tilt: float, size: int) -> tuple[np.ndarray, float]:
    """W on a period of ``size``, and B, which is more than any entry can be off by."""
    transforms = 8 * _UNIT * math.log2(size)
    slack, larger = np.zeros(size // 2 + 1), np.zeros(size // 2 + 1)
    spectrum = np.ones(size // 2 + 1, dtype=complex)
    for part in parts:
        K = part.moments(tilt)[0]
        tilted = tilt * part.loss
        weight = np.exp(part.log_mass + tilted - K)
        seen = weight > 0
        off = 2 * np.abs(part.log_mass[seen]) + 3 * np.abs(tilted[seen])
        rows = _wrapped(weight, part.offset, size)
        error = transforms + _UNIT * (36 + len(rows) + abs(K) + float(weight[seen] @ off))
        transform = fft.rfft(rows.sum(axis=0))
        size_of = np.abs(transform)
        # Parts are multiplied, not their phases added: a sum of many large phases loses digits.
        power = part.steps * np.log(np.maximum(size_of, 1e-300))
        spectrum *= np.exp(power + 1j * (part.steps * np.angle(transform)))
        slack += part.steps * error / (size_of + error)
        larger += part.steps * np.log(size_of + error)
    # Half of the frequencies stand for all: the others are their conjugates.
    bound = _MORE * 2 * float(np.exp(larger) @ (slack + transforms)) / size
    return fft.irfft(spectrum, size), bound


def _fast_size(points: int) -> int:
    """The least 2ᵃ·3ᵇ of at least ``points``, b up to 4: transforms of it are fast."""
    return min(3**power << (-(-points // 3**power) - 1).bit_length() for power in range(5))


def _wrapped(weight: np.ndarray, offset: int, size: int) -> np.ndarray:
    """Weights from ``offset`` on, in rows of a period that begins at 0."""
    lead = offset % size
    rows = -(-(lead + len(weight)) // size)
    padded = np.zeros(rows * size)
    padded[lead : lead + len(weight)] = weight
    return padded.reshape(rows, size)
