"""Least Huber loss of log residuals for many problems at once.

Problems of one law differ in their weights (a bootstrap's), their starts or the parameters held
fixed; they share the law and the points. All are moved together, because numpy on (problems,
points, parameters) costs little more for a thousand problems than for one.

The loss is Σ w·h(log L̂ − log L) with h(r) = r²/2 within δ and δ(|r| − δ/2) beyond, summed and not
averaged: a mean makes differences so small that optimizers stop early.
"""

from dataclasses import dataclass

import numpy as np

from workbench.scaling.law import Law

DELTA = 1e-3
STAGES = (30.0, 5.0, 1.0)  # δ is narrowed, so that far starts see a smooth loss first
_MOST = 80  # moves a stage
SETTLED = 1e-11  # of the loss, three times in a row
_ROUGHLY = 1e-5  # in all stages but the last, which only lead there
_NEAR = 1e-2  # in θ; starts that have come as near as this after the first stage are one


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
    stages: tuple[float, ...] = STAGES,
    settled: float = SETTLED,
) -> Fits:
    """Move every start downhill until it settles.

    Args:
        law: the law.
        x: (points, covariates), or (problems, points, covariates).
        log_loss: (points,), or (problems, points), logarithms of the measured losses.
        starts: (problems, parameters).
        weights: (problems, points) how often each point counts; once if not given.
        free: (parameters,) or (problems, parameters), which may move; all if not given.
        delta: δ of the last stage, in logarithms of loss.
        stages: multiples of δ, in turn.
        settled: how little of the loss a move of the last stage gains, three times, at the end.

    Damped Gauss–Newton steps on the weights δ/|r| that turn Huber's loss into squares
    (Levenberg–Marquardt on iteratively reweighted least squares).
    """
    moves = np.broadcast_to(True if free is None else free, starts.shape)
    theta = np.where(moves, np.clip(starts, *law.limits()), starts)
    measured = np.broadcast_to(log_loss, (len(theta), log_loss.shape[-1]))
    counts = np.ones(measured.shape) if weights is None else weights
    loss = np.zeros(len(theta))
    for stage in stages:
        enough = settled if stage == stages[-1] else _ROUGHLY
        theta, loss = _settle(law, x, measured, theta, counts, moves, delta * stage, enough)
    return Fits(theta, loss)


def apart(found: Fits, *, most: int, near: float = _NEAR) -> np.ndarray:
    """Which problems, the best first, ended in places that differ by ``near`` or more in θ."""
    kept: list[int] = []
    for index in np.argsort(found.loss, kind="stable"):
        if all(np.abs(found.theta[index] - found.theta[k]).max() > near for k in kept):
            kept.append(int(index))
        if len(kept) == most:
            break
    return np.array(kept)


def _settle(
    law: Law,
    x: np.ndarray,
    log_loss: np.ndarray,
    theta: np.ndarray,
    counts: np.ndarray,
    moves: np.ndarray,
    delta: float,
    settled: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One stage: problems that have settled stand still while the others go on."""
    theta = theta.copy()
    damping, calm = np.full(len(theta), 1e-3), np.zeros(len(theta), dtype=int)
    fitted, slopes = law.log_loss_and_slopes(theta, x)
    loss = (counts * huber(fitted - log_loss, delta)).sum(1)
    residuals, active, limits = fitted - log_loss, np.arange(len(theta)), law.limits()
    for _ in range(_MOST):
        own = x[active] if x.ndim == 3 else x
        step = _step(
            residuals[active], slopes[active], counts[active], moves[active], damping[active],
            theta[active], limits, delta,
        )  # fmt: skip
        tried = theta[active] + step
        tried = np.where(moves[active], np.clip(tried, *limits), tried)
        fitted, new_slopes = law.log_loss_and_slopes(tried, own)
        new_residuals = fitted - log_loss[active]
        new = (counts[active] * huber(new_residuals, delta)).sum(1)
        better = new < loss[active]
        gain = np.where(better, loss[active] - new, 0.0)
        moved = active[better]
        theta[moved], loss[moved] = tried[better], new[better]
        residuals[moved], slopes[moved] = new_residuals[better], new_slopes[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 8.0), 1e-12, 1e12)
        calm[active] = np.where(gain <= settled * loss[active], calm[active] + 1, 0)
        active = active[(calm[active] < 3) & (loss[active] > 0)]
        if not active.size:
            break
    return theta, loss


def _step(
    residuals: np.ndarray,
    slopes: np.ndarray,
    counts: np.ndarray,
    moves: np.ndarray,
    damping: np.ndarray,
    theta: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    delta: float,
) -> np.ndarray:
    """The damped step of each problem, (problems, parameters), 0 where nothing may move."""
    weights = counts * np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
    weighted = slopes * weights[..., None]
    downhill = -np.einsum("kni,kn->ki", weighted, residuals)
    # What stands at its bound and would go beyond stays there.
    held = (theta <= limits[0]) & (downhill < 0) | (theta >= limits[1]) & (downhill > 0)
    moves = moves & ~held
    pairs = moves[:, :, None] & moves[:, None, :]
    normal = np.matmul(weighted.transpose(0, 2, 1), slopes) * pairs
    diagonal = np.einsum("kii->ki", normal).copy()
    least = 1e-12 * np.maximum(diagonal.max(axis=1, keepdims=True), 1e-300)
    normal += (damping[:, None] * diagonal + least)[..., None] * np.eye(theta.shape[1])
    step = np.linalg.solve(normal, (downhill * moves)[..., None])[..., 0]
    return np.clip(step, -2.0, 2.0) * moves
