"""Numerics behind the ε surface: the composed privacy loss itself, on a grid, by Fourier transform.

What a numerical accountant does (Koskela, Jälkö & Honkela 2020; Gopi, Lee & Wutschitz 2021), for
many cells at once and with two differences that let a few hundred grid points do: the loss is
tilted by the saddle point, which brings the tail that decides ε far above rounding and keeps the
period short, and its first five moments survive being moved to the grid.
"""

import math
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from workbench.privacy._saddle import Cells, Saddle, losses_of, renyi_bound, tilted

_STENCIL = (-2, -1, 0, 1, 2, 3)  # the grid points that share a loss
_LAGRANGE = [1 / math.prod(k - other for other in _STENCIL if other != k) for k in _STENCIL]


class Composed(NamedTuple):
    """What composing on a grid says of each cell; arrays of shape (cells,)."""

    epsilon: np.ndarray  # NaN where δ is not met within the grid
    bulk: np.ndarray  # how far many small losses together reach with probability δ, after Gauss
    blur: np.ndarray  # what the grid's rounding may add to that reach, after Bernstein


def composed(cells: Cells, found: Saddle, size: int) -> Composed:
    """ε from the composed loss itself, on a periodic grid of ``size`` (a power of 2) losses.

    One step's loss is tilted, spread over the grid so that its first moments survive, composed by
    the fast Fourier transform and summed into δ(ε).
    """
    parts = [_composed(cells[rows], found.take(rows), size) for rows in cells.chunks(size)]
    return Composed(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _composed(cells: Cells, found: Saddle, size: int) -> Composed:
    tilt, period = _shortest_period(cells, found)
    t, spacing = tilt[:, None], period[:, None] / size
    losses = losses_of(cells, size // 2)
    K, _, weight = tilted(losses, tilt)
    position = losses.loss / spacing
    step = np.fft.rfft(_spread(position, weight, size), axis=1)
    # (1 − e^{ε−L})₊ tilted by t is a difference of two geometric series over the grid.
    turn = np.exp(-t * spacing + 2j * np.pi / size * np.arange(size // 2 + 1))
    payoff = turn * -np.expm1(-spacing) / ((1 - turn) * (1 - turn * np.exp(-spacing)))
    value = np.fft.irfft(_whole_power(step, cells.steps) * payoff, size, axis=1)
    log_moment = cells.steps * K - cells.log_delta
    upper = renyi_bound(log_moment, tilt)[:, None]
    place = np.ceil(upper / spacing).astype(np.int64) + np.arange(-int(0.8 * size), 2)
    value = np.take_along_axis(value, place & (size - 1), axis=1)
    epsilon = place * spacing
    above = log_moment[:, None] - t * epsilon + np.log(np.maximum(value, 1e-300))
    jumps = np.vecdot(losses.weight * (1 + losses.excess), np.minimum(position**2, 1))
    bulk = spacing[:, 0] * np.sqrt(-2 * cells.log_delta * cells.steps * jumps)
    return Composed(_last_crossing(epsilon, above), bulk, spacing[:, 0] * -cells.log_delta / 3)


def _shortest_period(cells: Cells, found: Saddle) -> tuple[np.ndarray, np.ndarray]:
    """A tilt, and a period in which what wraps round is below e⁻⁶ of δ there.

    From below wraps at most exp(−t·period); from above, by Chernoff at the saddle's tilt s, at most
    exp(log_moment(s) − (s − t)·period). The tilt that balances the two is short where rare large
    losses spread the saddle's own tilted loss wide; elsewhere twelve of its deviations are shorter.
    """
    below = 6 - cells.log_delta
    above = 6 + found.log_moment
    balanced = (below + above) / found.tilt
    at_saddle = np.maximum(12 * found.spread, (below + 6) / found.tilt)
    tilt = np.where(balanced < at_saddle, below / balanced, found.tilt)
    return tilt, np.minimum(balanced, at_saddle)


def _whole_power(base: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Each row of ``base`` to its whole power, by squaring: complex logarithms are slow."""
    result, base, left = np.ones_like(base), base.copy(), power.astype(np.int64)
    while left.any():
        odd = (left & 1).astype(bool)
        result[odd] *= base[odd]
        base *= base
        left >>= 1
    return result


def _spread(position: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Weights at real positions moved to a periodic grid by Lagrange interpolation, rows apart."""
    whole = np.floor(position)
    fraction = position - whole
    row_start = size * np.arange(len(position))[:, None]
    place = whole.astype(np.int64)
    gaps = [fraction - offset for offset in _STENCIL]
    before = list(accumulate(gaps[:-1], np.multiply, initial=weight))
    after = np.ones_like(weight)
    grid = np.zeros(size * len(position))
    for offset, scale, gap in zip(_STENCIL[::-1], _LAGRANGE[::-1], gaps[::-1], strict=True):
        index = ((place + offset) & (size - 1)) + row_start
        share = before.pop() * after
        grid += scale * np.bincount(index.ravel(), share.ravel(), minlength=grid.size)
        after *= gap
    return grid.reshape(len(position), size)


def _last_crossing(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where each row of y, linear between its points, last falls through 0; NaN if nowhere."""
    last = y.shape[1] - 1 - np.argmax(y[:, ::-1] >= 0, axis=1)
    row = np.arange(len(y))
    left = np.minimum(last, y.shape[1] - 2)
    drop = y[row, left] - y[row, left + 1]
    crossing = x[row, left] + (x[row, left + 1] - x[row, left]) * y[row, left] / drop
    met = (y[row, last] >= 0) & (last < y.shape[1] - 1)
    return np.where(met, crossing, np.nan)
