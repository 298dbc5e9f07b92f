"""Least Huber loss of log residuals for many problems at once.

Problems of one law differ in their weights (a bootstrap's), their starts or the parameters held
fixed; they share the law and the points. All are moved together, because numpy on (problems,
points, parameters) costs little more for a thousand problems than for one.

The loss is Σ w·h(log L̂ − log L) with h(r) = r²/2 within δ and δ(|r| − δ/2) beyond, summed and not
averaged: a mean makes differences so small that optimizers stop early.
"""

from dataclasses import dataclass

import numpy as np

from workbench.scaling.laws import Law

DELTA = 1e-3
_STAGES = (30.0, 5.0, 1.0)  # δ is narrowed, so that far starts see a smooth loss first
_MOST = 80  # moves a stage
_SETTLED = 1e-11  # of the loss, three times in a row
_REACH = 60.0  # of a logarithm; beyond it a term is gone, or all there is


@dataclass(frozen=True)
class Fits:
    """Where each problem ended: ``theta`` (problems, parameters) and ``loss`` (problems,)."""

    theta: np.ndarray
    loss: np.ndarray


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """h(r), elementwise."""
    size = np.abs(residuals)
    return np.where(size <= delta, residuals**2 / 2, delta * (size - delta / 2))


def minimise(
    law: Law,
    x: np.ndarray,
    log_loss: np.ndarray,
    starts: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    free: np.ndarray | None = None,
    delta: float = DELTA,
    stages: tuple[float, ...] = _STAGES,
) -> Fits:
    """Move every start downhill until it settles.

    Args:
        law: the law.
        x: (points, covariates), or (problems, points, covariates).
        log_loss: (points,) logarithms of the measured losses.
        starts: (problems, parameters) logarithms.
        weights: (problems, points) how often each point counts; once if not given.
        free: (parameters,) or (problems, parameters), which may move; all if not given.
        delta: δ of the last stage, in logarithms of loss.
        stages: multiples of δ, in turn.

    Damped Gauss–Newton steps on the weights δ/|r| that turn Huber's loss into squares
    (Levenberg–Marquardt on iteratively reweighted least squares).
    """
    theta = np.clip(starts, -_REACH, _REACH)
    counts = np.ones((len(theta), len(log_loss))) if weights is None else weights
    moves = np.broadcast_to(True if free is None else free, theta.shape)
    loss = np.zeros(len(theta))
    for stage in stages:
        theta, loss = _settle(law, x, log_loss, theta, counts, moves, delta * stage)
    return Fits(theta, loss)


def _settle(
    law: Law,
    x: np.ndarray,
    log_loss: np.ndarray,
    theta: np.ndarray,
    counts: np.ndarray,
    moves: np.ndarray,
    delta: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One stage: problems that have settled stand still while the others go on."""
    theta = theta.copy()
    damping, calm = np.full(len(theta), 1e-3), np.zeros(len(theta), dtype=int)
    loss = (counts * huber(law.log_loss(theta, x) - log_loss, delta)).sum(1)
    active = np.arange(len(theta))
    for _ in range(_MOST):
        own = x[active] if x.ndim == 3 else x
        step = _step(
            law, own, log_loss, theta[active], counts[active], moves[active], damping[active], delta
        )
        tried = np.clip(theta[active] + step, -_REACH, _REACH)
        new = (counts[active] * huber(law.log_loss(tried, own) - log_loss, delta)).sum(1)
        better = new < loss[active]
        gain = np.where(better, loss[active] - new, 0.0)
        theta[active[better]], loss[active[better]] = tried[better], new[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 8.0), 1e-12, 1e12)
        calm[active] = np.where(gain <= _SETTLED * loss[active], calm[active] + 1, 0)
        active = active[(calm[active] < 3) & (loss[active] > 0)]
        if not active.size:
            break
    return theta, loss


def _step(
    law: Law,
    x: np.ndarray,
    log_loss: np.ndarray,
    theta: np.ndarray,
    counts: np.ndarray,
    moves: np.ndarray,
    damping: np.ndarray,
    delta: float,
) -> np.ndarray:
    """The damped step of each problem, (problems, parameters), 0 where nothing may move."""
    fitted, slopes = law.log_loss_and_slopes(theta, x)
    residuals = fitted - log_loss
    weights = counts * np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
    slopes = slopes * moves[:, None, :]
    weighted = slopes * weights[..., None]
    normal = np.einsum("kni,knj->kij", weighted, slopes)
    downhill = -np.einsum("kni,kn->ki", weighted, residuals)
    diagonal = np.einsum("kii->ki", normal).copy()
    least = 1e-12 * np.maximum(diagonal.max(axis=1, keepdims=True), 1e-300)
    normal += (damping[:, None] * diagonal + least)[..., None] * np.eye(theta.shape[1])
    step = np.linalg.solve(normal, downhill[..., None])[..., 0]
    return np.clip(step, -2.0, 2.0) * moves
