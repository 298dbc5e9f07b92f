"""ε and noise-to-signal over the plane σ × batch, and ε along the steps, for pictures.

A plane is cached by what it depends on: moving the point within it costs nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workbench import privacy
from workbench.analysis.settings import Hold, Point
from workbench.presets import article_claims
from workbench.privacy.surface import DOMAIN, epsilon_surface

CELLS = 50
EPSILON_LEVELS = (0.1, 0.3, 1, 2, 4, 8, 16, 32, 100)  # a preview cannot tell 0.01 from 0.02
_STEP_CELLS = 61
_BATCH_DECADES = 5
_LEAST_SIGMA, _USUAL_SIGMA = DOMAIN["noise_multiplier"][0], 30.0


@dataclass(frozen=True)
class PlaneAxes:
    """Grid lines of a plane, log-spaced: σ of shape (cells,) and batch of shape (cells,)."""

    noise_multiplier: tuple[float, float]
    batch_size: tuple[float, float]

    @property
    def sigma(self) -> np.ndarray:
        """Noise multipliers of the grid's rows."""
        return np.geomspace(*self.noise_multiplier, CELLS)

    @property
    def batch(self) -> np.ndarray:
        """Expected batch sizes of the grid's columns."""
        return np.geomspace(*self.batch_size, CELLS)


@dataclass(frozen=True)
class Lines:
    """Level curves over a plane's batches: σ of shape (batch cells,) per level, NaN outside."""

    levels: tuple[float, ...]
    sigma: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Plane:
    """A quantity over the plane, shape (σ cells, batch cells), with its level curves."""

    axes: PlaneAxes
    values: np.ndarray
    lines: Lines


@dataclass(frozen=True, eq=False)
class BudgetCurve:
    """ε against steps for otherwise fixed settings, each of shape (cells,)."""

    steps: np.ndarray
    epsilon: np.ndarray


def axes(point: Point) -> PlaneAxes:
    """Axes around the point that jump by decades, so that small moves leave them alone.

    The batch runs up to N, or to the decade above the point's batch where N is far away, and down
    to where the preview's domain ends, or to the decade below the point's batch.
    """
    batch, records = point.expected_batch_size, float(point.dataset_size)
    top = min(records, 10.0 ** max(7, math.ceil(math.log10(batch))))
    bottom = 10.0 ** (math.ceil(math.log10(top)) - _BATCH_DECADES)
    bottom = max(bottom, records * DOMAIN["sample_rate"][0])
    bottom = max(1.0, min(bottom, 10.0 ** math.floor(math.log10(batch))))
    sigma = 10.0 ** math.ceil(math.log10(point.noise_multiplier))
    return PlaneAxes((_LEAST_SIGMA, max(_USUAL_SIGMA, sigma)), (bottom, max(top, 2 * bottom)))


def privacy_plane(point: Point) -> Plane:
    """ε over σ × batch at the point's N, length and δ: at fixed epochs, steps follow the batch.

    The same `Plane` object comes back as long as nothing it depends on has changed.
    """
    irrelevant = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 1}
    irrelevant |= {"n_params": 1.0, "mean_gradient_norm": 1.0, "record_tokens": 1}
    return _privacy_plane(axes(point), point.changed(**irrelevant, target_epsilon=1.0))


@lru_cache(maxsize=16)
def _privacy_plane(axes: PlaneAxes, point: Point) -> Plane:
    rates = np.minimum(1.0, axes.batch / point.dataset_size)
    steps = point.steps_at(axes.batch)
    values = epsilon_surface(axes.sigma[:, None], rates, steps, point.delta)
    return Plane(axes, values, _epsilon_lines(values, axes))


def noise_plane(point: Point) -> Plane:
    """Update noise-to-signal σC√d/(Bḡ) over the same plane, with lines at powers of ten."""
    return _noise_plane(axes(point), point.max_grad_norm, point.n_params, point.mean_gradient_norm)


@lru_cache(maxsize=16)
def _noise_plane(
    axes: PlaneAxes, max_grad_norm: float, n_params: float, mean_gradient_norm: float
) -> Plane:
    values = privacy.update_noise_to_signal(
        axes.sigma[:, None],
        np.asarray(max_grad_norm),
        axes.batch,
        np.asarray(n_params),
        np.asarray(mean_gradient_norm),
    )
    low, high = np.log10(values.min()), np.log10(values.max())
    levels = tuple(10.0**power for power in range(math.ceil(low), math.floor(high) + 1))
    sigma_per_level = axes.batch * mean_gradient_norm / (max_grad_norm * math.sqrt(n_params))
    return Plane(axes, values, _clipped(levels, [sigma_per_level * at for at in levels], axes))


def article_lines(point: Point) -> Lines:
    """Where the article's NSR σC/(√B ḡ) reaches the article's two thresholds."""
    claims = article_claims()
    levels = (claims["nsr_acceptable"], claims["nsr_degrading"])
    shown = axes(point)
    sigma = np.sqrt(shown.batch) * point.mean_gradient_norm / point.max_grad_norm
    return _clipped(levels, [sigma * level for level in levels], shown)


def held_line(point: Point, hold: Hold) -> Lines:
    """The curve along which the point moves while ``hold`` is on; no curve if nothing is held."""
    shown = axes(point)
    if hold.kind == "noise_batch_ratio":
        return _clipped((hold.value,), [hold.value * shown.batch], shown)
    if hold.kind == "epsilon":
        return _epsilon_lines(privacy_plane(point).values, shown, levels=(hold.value,))
    return Lines((), ())


def budget_curve(point: Point) -> BudgetCurve:
    """ε against steps at the point's σ, q and δ, from one step to ten times the point's."""
    most = 10.0 ** math.ceil(math.log10(max(point.steps, 10)) + 0.5)
    most = max(float(point.steps), min(most, DOMAIN["steps"][1]))
    steps = np.unique(np.geomspace(1, most, _STEP_CELLS).round())
    epsilon = epsilon_surface(point.noise_multiplier, point.sample_rate, steps, point.delta)
    return BudgetCurve(steps, epsilon)


def steps_within(curve: BudgetCurve, target_epsilon: float) -> float:
    """Steps at which the curve reaches the target, interpolated; NaN if it does not."""
    known = np.isfinite(curve.epsilon) & (curve.epsilon > 0)
    if not known.any():
        return math.nan
    log_epsilon = np.log(curve.epsilon[known])
    return float(
        np.exp(
            np.interp(
                math.log(target_epsilon),
                log_epsilon,
                np.log(curve.steps[known]),
                left=math.nan,
                right=math.nan,
            )
        )
    )


def _epsilon_lines(
    values: np.ndarray, axes: PlaneAxes, *, levels: Sequence[float] = EPSILON_LEVELS
) -> Lines:
    """σ at each level and batch, by interpolating log σ in log ε, which falls as σ grows."""
    log_sigma = np.log(axes.sigma)
    curves = np.full((len(levels), len(axes.batch)), np.nan)
    for column, epsilon in enumerate(values.T):
        known = np.isfinite(epsilon) & (epsilon > 0)
        if known.sum() >= 2:
            curves[:, column] = np.interp(
                np.log(levels),
                np.log(epsilon[known])[::-1],
                log_sigma[known][::-1],
                left=np.nan,
                right=np.nan,
            )
    return Lines(tuple(levels), tuple(np.exp(curves)))


def _clipped(levels: Sequence[float], sigmas: Sequence[np.ndarray], axes: PlaneAxes) -> Lines:
    low, high = axes.noise_multiplier
    inside = [np.where((low <= sigma) & (sigma <= high), sigma, np.nan) for sigma in sigmas]
    return Lines(tuple(levels), tuple(inside))
