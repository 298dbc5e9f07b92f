"""Which law to believe: information criteria, held-out error, and the pull of single points."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from workbench.errors import InputError, positive
from workbench.scaling import intervals, points
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.fitting import Problem, checked_problem, fit
from workbench.scaling.huber import DELTA, minimise
from workbench.scaling.law import taken

_SMALLEST = DELTA / 10  # residuals below are as good as none, whatever their logarithm


def compare(
    frame: pd.DataFrame,
    laws: Sequence[str] = ("power", "power_floor", "chinchilla", "overtraining"),
    *,
    cut: float | None = None,
    by: str = "compute",
    fixed: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """The same points by several laws, a row a law, the least BIC first.

    Args:
        frame: the points, with ``loss`` and what every law needs.
        laws: names that `fit` knows.
        cut: points with ``by`` above it are held out of the fit and predicted.
        by: the column that is cut, ``compute`` (6·N·D where there is none) or another.
        fixed: for some laws, parameters that are given.

    Returns columns ``law``, ``parameters`` (how many were fitted), ``objective``, ``aic``, ``bic``,
    ``error`` (median of |log residual|), ``heldout_points``, ``heldout_error`` (median of |log
    predicted − log measured|), ``heldout_bias`` (their median with sign), ``heldout_covered`` (the
    share within 95 % prediction intervals) and ``status``.

    AIC and BIC take residuals of log loss to be Laplace, which is what least absolute deviations
    mean; they compare laws of the same points only. Raises `InputError` where a cut leaves nothing
    on one side or a law cannot be fitted.
    """
    inside = _inside(frame, cut, by)
    rows = []
    for law in laws:
        fitted = fit(taken(frame, inside), law, fixed=(fixed or {}).get(law))
        rows.append({"law": law, **_scores(fitted), **_held_out(fitted, taken(frame, ~inside))})
    order = ["aic", "bic", "error"]
    columns = ["law", "parameters", "objective", *order, *_HELD_OUT, "status"]
    rows.sort(key=lambda row: row["bic"])
    return pd.DataFrame(rows, columns=columns)


_HELD_OUT = ("heldout_points", "heldout_error", "heldout_bias", "heldout_covered")


def influence(
    frame: pd.DataFrame, law: str = "chinchilla", *, fixed: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """How far the fit moves without each point, a row a point in the order of ``frame``.

    Columns are ``residual`` (log fitted less log measured, with the point in), one a free
    parameter (the fit without the point less the fit with it, in standard errors) and ``most``,
    the largest of these without sign. Laws that are formulas only; raises `InputError` as `fit`.
    """
    problem, _ = checked_problem(frame, law, fixed)
    theta = problem.solve()[0]
    n = len(problem.log_loss)
    without = minimise(
        problem.law,
        problem.x,
        problem.log_loss,
        np.repeat(theta[None], n, axis=0),
        weights=1 - np.eye(n),
        free=problem.free,
        stages=(5.0, 1.0),
        settled=1e-8,
    )
    natural, moved = problem.natural(theta), problem.natural(without.theta)
    spread = intervals.covariance(problem.uncentred(), natural)
    deviation = np.sqrt(np.diagonal(spread))[problem.free]
    moves = (moved - natural)[:, problem.free] / np.maximum(deviation, 1e-12)
    names = [n for n, free in zip(problem.law.parameters, problem.free, strict=True) if free]
    found = pd.DataFrame(moves, columns=names, index=frame.index)
    found.insert(0, "residual", problem.residuals(theta))
    return found.assign(most=np.abs(moves).max(axis=1))


def outliers(problem: Problem, theta: np.ndarray, *, deviations: float = 4.0) -> np.ndarray:
    """Points whose residual lies that many robust standard deviations out, (points,) of bool."""
    residuals = problem.residuals(theta)
    return np.abs(residuals) > deviations * intervals.robust_deviation(residuals)


def without_rows(problem: Problem, out: np.ndarray) -> Problem:
    """The problem without some points."""
    runs = pd.factorize(problem.runs[~out])[0]
    return replace(problem, x=problem.x[~out], log_loss=problem.log_loss[~out], runs=runs)


def compute_of(frame: pd.DataFrame) -> np.ndarray:
    """FLOPs of each row: ``compute``, else ``flops_per_token``·D, else 6·N·D."""
    if "compute" in frame:
        return points.checked_column(frame, "compute")
    tokens = points.checked_column(frame, "tokens")
    if "flops_per_token" in frame:
        return tokens * points.checked_column(frame, "flops_per_token")
    return 6 * tokens * points.checked_column(frame, "n_params")


def _inside(frame: pd.DataFrame, cut: float | None, by: str) -> np.ndarray:
    if cut is None:
        return np.ones(len(frame), dtype=bool)
    cut = positive("cut", cut, remedy="give a value between the smallest and the largest run")
    values = compute_of(frame) if by == "compute" else points.checked_column(frame, by)
    inside = values <= cut
    if inside.all() or not inside.any():
        raise InputError(
            f"cut is {cut:g} but {by} runs from {values.min():g} to {values.max():g}, so that one "
            "side is empty; choose a value in between."
        )
    return inside


def _scores(fitted: FittedLaw) -> dict[str, float | int | str]:
    n, k = len(fitted.residuals), fitted.free_count + 1  # the scatter is a parameter, too
    scale = max(float(np.abs(fitted.residuals).mean()), _SMALLEST)
    log_likelihood = -n * (np.log(2 * scale) + 1)
    return {
        "parameters": fitted.free_count,
        "objective": fitted.objective,
        "aic": 2 * k - 2 * log_likelihood,
        "bic": k * float(np.log(n)) - 2 * log_likelihood,
        "error": float(np.median(np.abs(fitted.residuals))),
        "status": fitted.status,
    }


def _held_out(fitted: FittedLaw, frame: pd.DataFrame) -> dict[str, float]:
    if frame.empty:
        return dict.fromkeys(_HELD_OUT, np.nan) | {"heldout_points": 0}
    measured = points.checked_losses(frame)
    off = np.log(fitted.predict(frame)) - np.log(measured)
    low, high = fitted.predict_interval(frame).T
    return {
        "heldout_points": len(frame),
        "heldout_error": float(np.median(np.abs(off))),
        "heldout_bias": float(np.median(off)),
        "heldout_covered": float(np.mean((low <= measured) & (measured <= high))),
    }
