"""Curves of runs over steps at one size and one noise-batch ratio."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from workbench.errors import InputError
from workbench.scaling.law import taken
from workbench.scaling.noise_surface import Surface, log_noise

_KEYS = ("n_params", "noise_batch_ratio", "learning_rate")
_WINDOW = 3  # evaluations of a rolling mean
_STEPS = 32  # places along ln T


@dataclass(frozen=True, eq=False)
class Curves:
    """Runs as curves over one axis of ln T.

    Attributes:
        frame: the checked points.
        keys: (runs, 3) size, σ̄ and learning rate of each run.
        steps: (places,) ln T.
        losses: (runs, places) log losses, NaN where a run did not reach.
    """

    frame: pd.DataFrame
    keys: np.ndarray
    steps: np.ndarray
    losses: np.ndarray

    def levels(self) -> list[tuple[float, np.ndarray]]:
        """Each size with its σ̄, rising."""
        sizes = np.unique(self.keys[:, 0])
        return [(size, np.unique(self.keys[self.keys[:, 0] == size, 1])) for size in sizes]

    def tables(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """For each size its σ̄ and the best curves, as `noise_surface.surface` takes them."""
        return [
            (size, levels, np.stack([self.best(size, noise)[0] for noise in levels]))
            for size, levels in self.levels()
        ]

    def rows_of(self, size: float, noise: float) -> np.ndarray:
        """The runs of one setting."""
        return np.flatnonzero((self.keys[:, 0] == size) & (self.keys[:, 1] == noise))

    def best(self, size: float, noise: float) -> tuple[np.ndarray, float]:
        """The best rate's mean curve at each T, (places,), and the best rate at the end."""
        rows = self.rows_of(size, noise)
        rates = np.unique(self.keys[rows, 2])
        means = np.stack([_mean(self.losses[rows[self.keys[rows, 2] == r]]) for r in rates])
        curve = np.min(np.where(np.isnan(means), np.inf, means), axis=0)
        known = np.isfinite(curve)
        last = int(np.flatnonzero(known)[-1])
        at_end = np.where(np.isnan(means[:, last]), np.inf, means[:, last])
        return np.where(known, curve, np.nan), float(rates[int(np.argmin(at_end))])

    def best_rows(self) -> pd.DataFrame:
        """The points of runs at their setting's best learning rate."""
        best = {
            (size, noise): self.best(size, noise)[1]
            for size, noises in self.levels()
            for noise in noises
        }
        keys = zip(self.frame["n_params"], self.frame["noise_batch_ratio"], strict=True)
        wanted = np.array([best[key] for key in keys])
        return taken(self.frame, np.asarray(self.frame["learning_rate"]) == wanted)

    def run_deviation(self) -> float:
        """Standard deviation of log loss between runs of one setting.

        From several runs of a setting, else from second differences along σ̄ (Gasser et al. 1986),
        which a smooth curve leaves small.
        """
        repeated, freedom = 0.0, 0
        for key in np.unique(self.keys, axis=0):
            own = self.losses[(self.keys == key).all(axis=1)]
            if len(own) > 1:
                level = np.nanmean(own - np.nanmean(own, axis=0), axis=1)
                repeated, freedom = repeated + float(level @ level), freedom + len(own) - 1
        if freedom >= 3:
            return max(float(np.sqrt(repeated / freedom)), 1e-6)
        rough = []
        for size, noises in self.levels():
            axis = log_noise(noises, noises)
            ends = np.array([_last(self.best(size, noise)[0]) for noise in noises])
            for i in range(1, len(axis) - 1):
                share = (axis[i] - axis[i - 1]) / (axis[i + 1] - axis[i - 1])
                off = ends[i] - (1 - share) * ends[i - 1] - share * ends[i + 1]
                rough.append(off / np.sqrt(1 + share**2 + (1 - share) ** 2))
        return max(float(np.sqrt(np.mean(np.square(rough)))), 1e-6) if len(rough) > 2 else 0.02

    def smooth(self, fitted: Surface) -> np.ndarray:
        """Log losses of the surface along each run, (runs, places)."""
        size, noise = (np.repeat(self.keys[:, k], len(self.steps)) for k in (0, 1))
        steps = np.tile(self.steps, len(self.keys))
        return fitted.log_loss(np.log(size), steps, noise).reshape(self.losses.shape)

    def with_other_chance(
        self, smooth: np.ndarray, run_deviation: float, rng: np.random.Generator
    ) -> "Curves":
        """Curves as they might have been: each run moved as a whole by what chance moves runs."""
        moved = rng.normal(0, run_deviation, len(self.keys))
        # Rates that are not the best keep their distance, so that the choice among them is drawn.
        behind = np.nanmean(np.maximum(self.losses - smooth, 0), axis=1)
        own = np.where(behind > 2 * run_deviation, behind, 0.0)
        losses = np.where(np.isnan(self.losses), np.nan, smooth + (own + moved)[:, None])
        return replace(self, losses=losses)

    def settings(self, fitted: Surface) -> pd.DataFrame:
        """A row a size and noise-batch ratio."""
        rows = []
        for i, (size, noises) in enumerate(self.levels()):
            for j, noise in enumerate(noises):
                own = self.rows_of(size, noise)
                rates = np.unique(self.keys[own, 2])
                rate = self.best(size, noise)[1]
                rows.append(
                    {
                        "n_params": size,
                        "noise_batch_ratio": noise,
                        "runs": len(own),
                        "learning_rate": rate,
                        "rate_at_edge": len(rates) > 1 and rate in (rates[0], rates[-1]),
                        **dict(zip(("E", "A", "alpha"), fitted.tails[i][j], strict=True)),
                    }
                )
        return pd.DataFrame(rows)


def curves(frame: pd.DataFrame) -> Curves:
    """The checked points as curves; `InputError` if no run has enough evaluations."""
    steps = np.log(frame["steps"].to_numpy())
    axis = np.linspace(steps.min(), steps.max(), _STEPS)
    keys, losses = [], []
    for _, run in frame.groupby("run", sort=True):
        run = run.sort_values("steps")
        keys.append([float(run[name].iloc[0]) for name in _KEYS])
        smooth = run["loss"].rolling(_WINDOW, center=True, min_periods=1).mean()
        t, log_loss = np.log(np.asarray(run["steps"])), np.log(np.asarray(smooth, dtype=float))
        reached = (axis >= t[0] - 1e-9) & (axis <= t[-1] + 1e-9)
        losses.append(np.where(reached, np.interp(axis, t, log_loss), np.nan))
    found = Curves(frame, np.array(keys, dtype=float), axis, np.array(losses))
    if (np.isfinite(found.losses).sum(axis=1) < 2).all():
        raise InputError(
            "No run has losses at several steps, so that there are no curves; give a column run, "
            "and evaluate each run while it trains."
        )
    return found


def _mean(losses: np.ndarray) -> np.ndarray:
    """The mean over runs where there is any, else NaN."""
    known = np.isfinite(losses)
    total = np.where(known, losses, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _last(curve: np.ndarray) -> float:
    return float(curve[np.flatnonzero(np.isfinite(curve))[-1]])
