"""ε over whole grids at once: the fast preview behind the sliders and the contour pictures.

Accounts for the Poisson-subsampled Gaussian under add-or-remove-one, like `privacy.epsilon`, to
within `PREVIEW_ERROR` of it, at some microseconds a cell instead of some hundred milliseconds. A
cell that cannot be answered so is NaN, with its reason. Four routes, cheapest first:

1. q = 1 or one step: closed form;
2. the Rényi bound already lies within 0.01 of zero: anything from 0 to the bound will do;
3. the saddle point with fourth-order correction, where the correction is small;
4. the composed loss on a grid, refined where ε is only a few grid points from zero.

>>> epsilon_surface([0.8, 1.6], 0.01, 1000, 1e-5).round(2)
array([3.14, 0.84])
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from workbench import errors
from workbench.errors import InputError
from workbench.privacy import _grid, _saddle
from workbench.privacy._saddle import Cells, Saddle

RELATIVE_ERROR = 0.01
ABSOLUTE_ERROR = 0.01
PREVIEW_ERROR = "preview, within 1 % or 0.01 of certified"

DOMAIN = {
    "noise_multiplier": (0.3, 1000.0),
    "sample_rate": (1e-6, 1.0),
    "steps": (1.0, 1e6),
    "delta": (1e-12, 1e-2),
}
"""Where the preview was compared with the certified value; outside it answers NaN."""

_LARGEST_CORRECTION = 0.05
_GRID_SIZES = (512, 2048, 8192, 32768)
# ε in reaches of the bulk at which the grid is trusted, and blurs in bulks. Chosen on 47 000 random
# cells against grids of 16 384, where no ε that these accept was off by as much as was promised.
_CLEAR = 4
_SHARP_BEYOND, _SHARP_WITHIN = 0.2, 0.1
_SEARCH_STEPS = 40
_SEARCH_TOLERANCE = 0.002
_FIRST_SLOPE, _FLATTEST = -1.2, 0.1  # of log ε against log σ

_UNSETTLED = "the composed loss still moves when its grid is refined; ask for the certified value"
_NO_SIGMA = "the search for σ did not end; ask for the certified value"
_LESS_NOISE = "even the least σ that the preview covers keeps within the target"
_MORE_NOISE = "the target needs more σ than the preview covers"


@dataclass(frozen=True)
class Preview:
    """Previewed values and, cell by cell, why there is none.

    ``values`` is a float64 array, NaN exactly where ``reasons``, an object array of the same shape,
    holds a sentence instead of the empty string.
    """

    values: np.ndarray
    reasons: np.ndarray


def epsilon_surface(
    noise_multiplier: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, delta: ArrayLike
) -> np.ndarray:
    """ε of Poisson-subsampled DP-SGD, previewed; the arguments broadcast against one another.

    Args: σ > 0; q in (0, 1]; whole steps ≥ 1; δ in (0, 1).
    Returns: float64 array of the common shape, within 1 % or 0.01 of the certified PLD or NaN;
        `explain_epsilon_surface` says why NaN.
    Raises: InputError on a value out of range or shapes that do not broadcast.
    """
    return explain_epsilon_surface(noise_multiplier, sample_rate, steps, delta).values


def explain_epsilon_surface(
    noise_multiplier: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, delta: ArrayLike
) -> Preview:
    """As `epsilon_surface`, with the reason for every NaN."""
    given = _broadcast(
        noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps, delta=delta
    )
    reasons = _outside(given)
    inside = reasons == ""
    values = np.full(inside.shape, np.nan)
    sigma, q, steps, delta = (array[inside] for array in given.values())
    values[inside], reasons[inside] = _epsilon(Cells(sigma, q, steps, np.log(delta)))
    return Preview(values, reasons)


def noise_multiplier_surface(
    target_epsilon: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, delta: ArrayLike
) -> np.ndarray:
    """The σ whose previewed ε is ``target_epsilon``; the arguments broadcast.

    A preview: unlike `privacy.noise_multiplier` it may fall short of the target's σ by the
    preview's error. Shapes, errors and NaN as in `epsilon_surface`.
    """
    return explain_noise_multiplier_surface(target_epsilon, sample_rate, steps, delta).values


def explain_noise_multiplier_surface(
    target_epsilon: ArrayLike, sample_rate: ArrayLike, steps: ArrayLike, delta: ArrayLike
) -> Preview:
    """As `noise_multiplier_surface`, with the reason for every NaN."""
    given = _broadcast(
        target_epsilon=target_epsilon, sample_rate=sample_rate, steps=steps, delta=delta
    )
    reasons = _outside(given)
    inside = reasons == ""
    values = np.full(inside.shape, np.nan)
    target, q, steps, delta = (array[inside] for array in given.values())
    fixed = Cells(np.ones_like(q), q, steps, np.log(delta))
    values[inside], reasons[inside] = _noise_multiplier(target, fixed)
    return Preview(values, reasons)


def _broadcast(**given: ArrayLike) -> dict[str, np.ndarray]:
    """The checked arguments as float arrays of one shape."""
    arrays = {name: _checked(name, value) for name, value in given.items()}
    try:
        return dict(zip(arrays, np.broadcast_arrays(*arrays.values()), strict=True))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"The shapes {shapes} do not broadcast to one; give scalars or arrays that do."
        ) from None


def _checked(name: str, value: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r} but must hold numbers; give one or many.") from None
    if name == "steps":
        bad = ~(np.isfinite(array) & (array >= 1) & (array == np.floor(array)))
    elif name in ("sample_rate", "delta"):
        bad = ~((array > 0) & ((array <= 1) if name == "sample_rate" else (array < 1)))
    else:
        bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        _refuse(name, float(array[bad][0]))
    return array


def _refuse(name: str, value: float) -> None:
    if name == "steps":
        errors.whole(name, value, least=1, remedy="count optimizer steps")
    elif name == "sample_rate":
        remedy = "divide the expected batch size by the number of records"
        errors.probability(name, value, one=True, remedy=remedy)
    elif name == "delta":
        errors.probability(name, value, remedy="take less than one over the number of records")
    else:
        errors.positive(name, value, remedy="choose something like 1")


def _outside(given: dict[str, np.ndarray]) -> np.ndarray:
    """Reasons of the cells outside the domain; empty strings elsewhere."""
    reasons = np.full(next(iter(given.values())).shape, "", dtype=object)
    for name, (least, most) in DOMAIN.items():
        if name in given:
            sentence = f"{name} lies outside {least:g} to {most:g}, where the preview was checked"
            reasons[(given[name] < least) | (given[name] > most)] = sentence
    return reasons


def _epsilon(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """ε and reasons of checked cells, by the four routes."""
    epsilon = np.empty(len(cells))
    reasons = np.full(len(cells), "", dtype=object)
    closed = (cells.sample_rate == 1) | (cells.steps == 1)
    epsilon[closed] = _saddle.closed_form(cells[closed])
    rest = np.flatnonzero(~closed)
    if rest.size:
        found = _saddle.saddle(cells[rest])
        epsilon[rest] = np.clip(found.epsilon, 0, np.maximum(found.upper, 0))
        doubtful = (found.correction > _LARGEST_CORRECTION) & (found.upper > ABSOLUTE_ERROR)
        rows = rest[doubtful]
        epsilon[rows], known = _by_grid(cells[rows], found.take(doubtful))
        epsilon[rows[~known]], reasons[rows[~known]] = np.nan, _UNSETTLED
    return epsilon, reasons


def _by_grid(cells: Cells, found: Saddle) -> tuple[np.ndarray, np.ndarray]:
    """ε from ever finer grids, and where it is known.

    It is known where it lies far beyond what many small losses reach together, where the grid
    resolves that bulk, where two grids agree, and where the coarsest agrees with a single large
    loss whose company is too small to matter.
    """
    epsilon = _saddle.one_jump(cells)
    known = np.zeros(len(cells), dtype=bool)
    for size in _GRID_SIZES:
        left = np.flatnonzero(~known)
        if not left.size:
            break
        finer, bulk, blur = _grid.composed(cells[left], found.take(left), size)
        finer = np.maximum(finer, 0)
        tolerance = np.maximum(RELATIVE_ERROR * finer, ABSOLUTE_ERROR)
        agrees = np.abs(finer - epsilon[left]) <= tolerance / 2
        if size == _GRID_SIZES[0]:
            agrees &= bulk <= tolerance
        reach = bulk + blur
        sharp = blur <= np.where(finer >= reach, _SHARP_BEYOND, _SHARP_WITHIN) * bulk
        epsilon[left], known[left] = finer, agrees | sharp | (finer >= _CLEAR * reach)
    return epsilon, known


def _noise_multiplier(target: np.ndarray, fixed: Cells) -> tuple[np.ndarray, np.ndarray]:
    """σ and reasons, by a bracketed secant for log σ on log(ε + 0.01), nearly a straight line."""
    least, most = np.log(DOMAIN["noise_multiplier"])
    low, high = np.full(len(fixed), least - 1e-9), np.full(len(fixed), most + 1e-9)
    x = np.clip(_central_limit_guess(target, fixed), least, most)
    slope = np.full(len(fixed), _FIRST_SLOPE)
    last_x, last = np.full(len(fixed), np.nan), np.full(len(fixed), np.nan)
    reasons = np.full(len(fixed), _UNSETTLED, dtype=object)
    left = np.arange(len(fixed))
    for _ in range(_SEARCH_STEPS):
        here = x[left]
        epsilon, reasons[left] = _epsilon(replace(fixed[left], noise_multiplier=np.exp(here)))
        excess = np.log((epsilon + ABSOLUTE_ERROR) / (target[left] + ABSOLUTE_ERROR))
        low[left] = np.where(excess > 0, here, low[left])
        high[left] = np.where(excess < 0, here, high[left])
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = (excess - last[left]) / (here - last_x[left])
        slope[left] = np.where(secant < -_FLATTEST, secant, slope[left])
        last_x[left], last[left] = here, excess
        new = np.clip(here - excess / slope[left], least, most)
        inside = (low[left] < new) & (new < high[left])
        open_ = np.abs(excess) > _SEARCH_TOLERANCE
        reasons[left[open_ & (here == least) & (excess < 0)]] = _LESS_NOISE
        reasons[left[open_ & (here == most) & (excess > 0)]] = _MORE_NOISE
        open_ &= reasons[left] == ""
        x[left] = np.where(open_, np.where(inside, new, (low[left] + high[left]) / 2), here)
        left = left[open_]
        if not left.size:
            break
    reasons[left] = _NO_SIGMA
    return np.where(reasons == "", np.exp(x), np.nan), reasons


def _central_limit_guess(target: np.ndarray, fixed: Cells) -> np.ndarray:
    """Log σ of the Gaussian limit μ² = T·q²·(exp(1/σ²) − 1) (Dong, Roth & Su 2022)."""
    deviations = 0.9 * np.sqrt(-2 * fixed.log_delta)
    mu = np.sqrt(deviations**2 + 2 * target) - deviations
    return -np.log(np.log1p(mu**2 / (fixed.steps * fixed.sample_rate**2))) / 2
