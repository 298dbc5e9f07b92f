"""The surface of losses over (M, T, σ̄): interpolated, and continued along T."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.scaling.isotonic import monotone

_TAIL = 0.5  # of a curve's last part, in ln T, that its extrapolation is fitted to
_LEAST_TAIL = 4
_FILLED = 1e-3  # weight of what a curve did not reach, beside what it did
_ALPHAS = np.geomspace(0.02, 2, 60)
_BELOW = np.log(2)  # ln σ̄ between no noise and the least noise measured, where they are joined


@dataclass(frozen=True, eq=False)
class Surface:
    """Log losses of each size over (σ̄, T), and how each curve goes on.

    Attributes:
        sizes: (sizes,) ln M, rising.
        steps: (places,) ln T, rising.
        noises: for each size, (levels,) σ̄ rising, maybe from 0.
        log_losses: for each size, (levels, places).
        tails: for each size, (levels, 3) of E, A and α.
    """

    sizes: np.ndarray
    steps: np.ndarray
    noises: tuple[np.ndarray, ...]
    log_losses: tuple[np.ndarray, ...]
    tails: tuple[np.ndarray, ...]

    def log_loss(self, m: np.ndarray, t: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Log L at ln M, ln T and σ̄, (rows,) each; linear beyond the ends of M and of σ̄."""
        of_size = np.stack([self._of_size(i, t, noise) for i in range(len(self.sizes))])
        if len(self.sizes) == 1:
            return of_size[0]
        left, share = _place(self.sizes, m)
        rows = np.arange(len(m))
        return of_size[left, rows] * (1 - share) + of_size[left + 1, rows] * share

    def tail(self, name: str) -> float:
        """The median of E, A or α over all curves."""
        return float(np.median(np.concatenate(self.tails)[:, ("E", "A", "alpha").index(name)]))

    def _of_size(self, i: int, t: np.ndarray, noise: np.ndarray) -> np.ndarray:
        axis = log_noise(self.noises[i], self.noises[i])
        curves = np.stack([self._of_curve(i, j, t) for j in range(len(axis))])
        if len(axis) == 1:
            return curves[0]
        left, share = _place(axis, log_noise(noise, self.noises[i]), least=0.0)
        rows = np.arange(len(t))
        return curves[left, rows] * (1 - share) + curves[left + 1, rows] * share

    def _of_curve(self, i: int, j: int, t: np.ndarray) -> np.ndarray:
        within = np.interp(t, self.steps, self.log_losses[i][j])
        floor, drop, alpha = self.tails[i][j]
        end = self.steps[-1]
        # Beyond the end the tail goes on from where the curve stands, which it may not meet.
        last = np.exp(self.log_losses[i][j][-1]) - floor - drop * np.exp(-alpha * end)
        beyond = floor + last + drop * np.exp(-alpha * np.maximum(t, end))
        return np.where(t <= end, within, np.log(np.maximum(beyond, 1e-9)))


def surface(
    steps: np.ndarray,
    tables: Sequence[tuple[float, np.ndarray, np.ndarray]],
    fixed: Mapping[str, float],
) -> Surface:
    """Curves put in order, each continued to the last step.

    Args:
        steps: (places,) ln T.
        tables: for each size M, its σ̄ (levels,) and log losses (levels, places), NaN where a
            curve did not reach.
        fixed: E or α of L = E + A/T^α, if given.
    """
    log_losses, tails = [], []
    for _, _, table in tables:
        known = np.isfinite(table)
        ends = np.stack(
            [_tail(steps[k], row[k], fixed) for row, k in zip(table, known, strict=True)]
        )
        whole = np.where(known, table, _filled(table, steps, ends))
        ordered = monotone(whole, np.where(known, 1.0, _FILLED))
        log_losses.append(ordered)
        tails.append(np.stack([_tail(steps, row, fixed) for row in ordered]))
    sizes = np.log([size for size, _, _ in tables])
    noises = tuple(levels for _, levels, _ in tables)
    return Surface(sizes, steps, noises, tuple(log_losses), tuple(tails))


def _filled(table: np.ndarray, steps: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Before a curve begins its first value, after it ends its tail."""
    filled = table.copy()
    for row, (floor, drop, alpha) in zip(filled, ends, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        row[: known[0]] = row[known[0]]
        last = np.exp(row[known[-1]]) - floor - drop * np.exp(-alpha * steps[known[-1]])
        after = floor + last + drop * np.exp(-alpha * steps[known[-1] + 1 :])
        row[known[-1] + 1 :] = np.log(np.maximum(after, 1e-9))
    return filled


def _tail(steps: np.ndarray, log_loss: np.ndarray, fixed: Mapping[str, float]) -> np.ndarray:
    """E, A and α of L = E + A/T^α by least squares on the last part of a curve."""
    start = steps[-1] - _TAIL * (steps[-1] - steps[0])
    own = steps >= start
    own[-_LEAST_TAIL:] = True
    t, loss = steps[own], np.exp(log_loss[own])
    if len(t) < 2 or np.ptp(loss) < 1e-12:
        return np.array([loss[-1], 0.0, 1.0])
    alphas = np.array([fixed["alpha"]]) if "alpha" in fixed else _ALPHAS
    falls = np.exp(-alphas[:, None] * (t - t[-1]))  # of size 1 at the end
    if "E" in fixed:
        floor = np.full(len(alphas), fixed["E"])
        drop = (falls * (loss - fixed["E"])).sum(1) / (falls**2).sum(1)
    else:
        centred = falls - falls.mean(1, keepdims=True)
        drop = (centred * (loss - loss.mean())).sum(1) / np.maximum((centred**2).sum(1), 1e-300)
        floor = loss.mean() - drop * falls.mean(1)
        below = floor < 0
        drop = np.where(below, (falls * loss).sum(1) / (falls**2).sum(1), drop)
        floor = np.where(below, 0.0, floor)
    drop = np.maximum(drop, 0.0)
    floor = floor if "E" in fixed else np.maximum(loss.mean() - drop * falls.mean(1), 0.0)
    errors = ((floor[:, None] + drop[:, None] * falls - loss) ** 2).sum(1)
    best = int(np.argmin(errors))
    return np.array([floor[best], drop[best] * np.exp(alphas[best] * t[-1]), alphas[best]])


def log_noise(noise: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Ln σ̄, where noise below the least level above 0 runs linearly to a stand-in for none."""
    above = levels[levels > 0]
    if not len(above):
        return np.zeros_like(noise)
    least = above.min()
    small = np.log(least) - _BELOW * (1 - np.minimum(noise, least) / least)
    return np.where(noise >= least, np.log(np.maximum(noise, least)), small)


def _place(
    axis: np.ndarray, at: np.ndarray, *, least: float = -np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a rising axis, and the share of it: beyond 0 to 1 outside, from ``least``."""
    left = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    share = (at - axis[left]) / (axis[left + 1] - axis[left])
    return left, np.maximum(share, np.where(left == 0, least, 0.0))
