"""The best number of parameters for each compute: minima of isoFLOP curves, and N* = k·C^a.

At each compute the loss is a curve of ln N with a minimum inside. ``parabola`` fits one to the
points about the lowest (Hoffmann et al. 2022, arXiv 2203.15556, approach 2), weighted towards it;
``akima`` takes the minimum of Akima's interpolation (Porian et al. 2024, arXiv 2406.19146). How
sure a minimum is follows from the scatter about the parabolas of all computes, and a is a
regression weighted by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator
from scipy.stats import t as student

from workbench.errors import InputError
from workbench.scaling import points
from workbench.scaling.fitted import FittedLaw
from workbench.scaling.law import taken
from workbench.scaling.status import NONE, Refusal

Method = Literal["parabola", "akima"]
FORMULA = "N* = k·C^a"
_SAME_COMPUTE = 0.05  # of its logarithm; runs meant for one compute seldom have exactly that
_LEAST = 4  # points of a curve, one more than a parabola has parameters
_ABOUT = 7  # points nearest to the lowest that a parabola is fitted to
_FINE = 400  # places between which Akima's minimum is sought
_PERTURBED = 60  # curves with scatter added, to see how far Akima's minimum moves


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedIsoflop(FittedLaw):
    """N* = k·C^a; ``predict`` gives the best number of parameters for a column ``compute``.

    Attributes:
        minima: a row a compute with ``compute``, ``n_params`` (the best), ``loss`` there,
            ``deviation`` (of ln N*) and ``why`` ("" or why there is no minimum).
        covariance: of (ln k, a), (2, 2).
    """

    minima: pd.DataFrame
    covariance: np.ndarray

    def _log_prediction(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        x = np.log(points.checked_column(frame, "compute"))
        row = np.stack([np.ones_like(x), x], axis=1)
        centre = np.log(self.params["k"]) + self.params["a"] * x
        variance = np.einsum("ni,ij,nj->n", row, self.covariance, row)
        return centre, np.sqrt(np.maximum(variance, 0))


def isoflop_minima(frame: pd.DataFrame, *, method: Method = "parabola") -> pd.DataFrame:
    """The minimum of each isoFLOP curve, a row a compute.

    Args:
        frame: ``n_params`` and ``loss``, and ``compute`` (FLOPs) or ``tokens`` (then 6·N·D).
        method: ``parabola`` or ``akima``.

    Returns columns ``compute``, ``n_params``, ``loss``, ``deviation`` and ``why``; NaN with the
    reason in ``why`` where the lowest point is at the edge or the curve has too few points.
    """
    x, y, compute = _checked(frame)
    groups = _groups(compute)
    scatter = _scatter(x, y, groups)
    rng = np.random.default_rng(0)
    rows = []
    for group in groups:
        at = float(np.exp(np.mean(np.log(compute[group]))))
        rows.append({"compute": at, **_minimum(x[group], y[group], scatter, method, rng)})
    return pd.DataFrame(rows)


def fit_isoflop(
    frame: pd.DataFrame,
    *,
    method: Method,
    fixed: Mapping[str, float],
    bootstrap: int,
) -> FittedIsoflop:
    """N* = k·C^a through the minima; see `fit` for arguments and errors."""
    for name in fixed:
        if name not in ("k", "a"):
            raise InputError(
                f"fixed names {name!r} but the law isoflop has k, a; give one of these."
            )
    if bootstrap:
        raise InputError(
            "bootstrap is of runs but an isoFLOP curve has one of each size, and a resample has no "
            "curve; leave bootstrap at 0 and take the intervals of the weighted regression."
        )
    minima = isoflop_minima(frame, method=method)
    refusal = _refusal(minima)
    inside = taken(minima, np.asarray(minima["why"]) == "")
    free = 2 - len(fixed)
    if len(inside) < max(free, 1):
        raise InputError(
            f"{minima['why'].iloc[0] or 'There are too few minima.'} "
            f"A law needs {max(free, 1)} computes with a minimum inside; measure more sizes."
        )
    x, y = np.log(inside["compute"].to_numpy()), np.log(inside["n_params"].to_numpy())
    weight = 1 / inside["deviation"].to_numpy()
    basis, given = np.stack([np.ones_like(x), x], axis=1), np.zeros(2)
    for index, name in enumerate(("k", "a")):
        if name in fixed:
            given[index] = np.log(fixed[name]) if name == "k" else fixed[name]
    is_free = np.array([name not in fixed for name in ("k", "a")])
    own = basis[:, is_free] * weight[:, None]
    left = (y - basis @ given) * weight
    solved = np.linalg.lstsq(own, left, rcond=None)[0]
    values = given.copy()
    values[is_free] = solved
    residuals = basis @ values - y
    freedom = max(len(x) - free, 1)
    scale = float(np.sum((residuals * weight) ** 2)) / freedom
    covariance = np.zeros((2, 2))
    if free:
        covariance[np.ix_(is_free, is_free)] = scale * np.linalg.inv(own.T @ own)
    reach = float(student.ppf(0.975, freedom)) * np.sqrt(np.diagonal(covariance))
    low, high = values - reach, values + reach
    if len(x) - free < 1 and not refusal.reason:
        refusal = Refusal(
            "too_few_points",
            f"There are only {len(x)} computes with a minimum for {free} parameters, so that the "
            "intervals are not known; measure at least one compute more.",
        )
    return FittedIsoflop(
        name="isoflop" if method == "parabola" else "isoflop_akima",
        formula=FORMULA,
        params={"k": float(np.exp(values[0])), "a": float(values[1])} | dict(fixed),
        intervals={
            "k": (float(np.exp(low[0])), float(np.exp(high[0]))),
            "a": (float(low[1]), float(high[1])),
        },
        objective=float(np.sum((residuals * weight) ** 2)),
        residuals=residuals,
        ranges=points.ranges(inside, ["compute"]),
        status=refusal.words,
        reason=refusal.reason,
        fixed=dict(fixed),
        minima=minima,
        covariance=covariance,
    )


def _checked(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ln N, loss and compute of the points."""
    n_params = points.checked_column(frame, "n_params")
    loss = points.checked_losses(frame)
    points.refuse_copies(frame)
    if "compute" in frame:
        compute = points.checked_column(frame, "compute")
    else:
        compute = 6 * n_params * points.checked_column(frame, "tokens")
    return np.log(n_params), loss, compute


def _groups(compute: np.ndarray) -> list[np.ndarray]:
    """The rows of each compute: a gap in the sorted logarithms parts two."""
    order = np.argsort(compute, kind="stable")
    gaps = np.flatnonzero(np.diff(np.log(compute[order])) > _SAME_COMPUTE) + 1
    return np.split(order, gaps)


def _scatter(x: np.ndarray, y: np.ndarray, groups: list[np.ndarray]) -> float:
    """Standard deviation of losses about the parabolas of all computes, in nats."""
    squares, freedom = 0.0, 0
    for group in groups:
        if len(group) < _LEAST:
            continue
        rows = _about(x[group], y[group])
        own_x, own_y = x[group][rows], y[group][rows]
        left = own_y - np.polyval(np.polyfit(own_x - own_x.mean(), own_y, 2), own_x - own_x.mean())
        squares, freedom = squares + float(left @ left), freedom + len(rows) - 3
    return max(np.sqrt(squares / max(freedom, 1)), 1e-9)


def _about(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The points nearest to the lowest."""
    return np.argsort(np.abs(x - x[np.argmin(y)]), kind="stable")[:_ABOUT]


def _minimum(
    x: np.ndarray, y: np.ndarray, scatter: float, method: Method, rng: np.random.Generator
) -> dict[str, float | str]:
    none = {"n_params": np.nan, "loss": np.nan, "deviation": np.nan}
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if len(np.unique(x)) < _LEAST:
        return {**none, "why": f"A curve has {len(np.unique(x))} sizes but needs {_LEAST}."}
    least = int(np.argmin(y))
    if x[least] in (x[0], x[-1]):
        edge = "smallest" if x[least] == x[0] else "largest"
        return {
            **none,
            "why": f"There is no interior minimum: the {edge} size, {np.exp(x[least]):.3g} "
            "parameters, has the lowest loss.",
        }
    found = _of_parabola(x, y, scatter) if method == "parabola" else _of_akima(x, y, scatter, rng)
    if found is None:
        return {**none, "why": "There is no interior minimum: the points do not curve upwards."}
    at, loss, deviation = found
    if not x[0] < at < x[-1]:
        return {**none, "why": "There is no interior minimum: the parabola's lies outside."}
    return {
        "n_params": float(np.exp(at)),
        "loss": float(loss),
        "deviation": float(max(deviation, 1e-9)),
        "why": "",
    }


def _of_parabola(x: np.ndarray, y: np.ndarray, scatter: float) -> tuple[float, float, float] | None:
    """Place, value and deviation of the place, by weighted least squares about the lowest."""
    rows = _about(x, y)
    middle = float(x[np.argmin(y)])
    u, v = x[rows] - middle, y[rows]
    # Far from the minimum a curve is no parabola: weights fall to a quarter at the farthest.
    weight = 1 / (1 + 3 * (u / np.abs(u).max()) ** 2) ** 0.5
    basis = np.stack([u**2, u, np.ones_like(u)], axis=1)
    own = basis * weight[:, None]
    inverse = np.linalg.inv(own.T @ own)
    curve, slope, level = inverse @ own.T @ (v * weight)
    if curve <= 0:
        return None
    at = -slope / (2 * curve)
    map_ = inverse @ (own * weight[:, None]).T
    covariance = scatter**2 * map_ @ map_.T
    gradient = np.array([slope / (2 * curve**2), -1 / (2 * curve), 0])
    return middle + at, level + slope * at / 2, float(np.sqrt(gradient @ covariance @ gradient))


def _of_akima(
    x: np.ndarray, y: np.ndarray, scatter: float, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """The same by Akima's interpolation, and how far scatter moves its minimum."""
    sizes = np.unique(x)
    mean = np.array([y[x == size].mean() for size in sizes])
    fine = np.linspace(sizes[0], sizes[-1], _FINE)
    curves = mean + scatter * rng.standard_normal((_PERTURBED, len(sizes)))
    curves[0] = mean
    values = Akima1DInterpolator(sizes, curves.T)(fine)
    places = fine[np.argmin(values, axis=0)]
    step = float(fine[1] - fine[0])
    return float(places[0]), float(values[:, 0].min()), max(float(places.std()), step)


def _refusal(minima: pd.DataFrame) -> Refusal:
    outside = taken(minima, np.asarray(minima["why"]) != "")
    if outside.empty:
        return NONE
    return Refusal(
        "no_interior_minimum",
        f"{len(outside)} of {len(minima)} computes have no minimum that counts; at "
        f"{outside['compute'].iloc[0]:.3g} FLOPs: {outside['why'].iloc[0]} Measure further sizes "
        "there.",
    )
