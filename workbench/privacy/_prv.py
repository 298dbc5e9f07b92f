"""Opacus's PRV accountant (Gopi, Lee & Wutschitz 2021), with what its Fourier transforms may hide.

It composes losses that are not tilted, so that rounding is small beside 1 and not beside δ. With
the terms of `workbench.privacy._composition`, u = 2⁻⁵³: each frequency of the composed masses y is
off by at most η times that frequency of one step less, η = T·u·(8·log₂N + 64) over T steps and N
points, so by Parseval ‖error of y‖₂ ≤ η·‖y‖₂, and by Cauchy and Schwarz a sum of N of its entries
with weights up to 1, which δ is, is off by at most η·√N·‖y‖₂. One step's masses are differences of
values of its distribution function, each off by a few u; summed by parts that is a few u of δ a
step, and within the 64. Sums of N numbers add N·u each. All of it is taken off δ before ε is read.
"""

import math
from typing import Any

import numpy as np

from workbench.errors import InputError
from workbench.privacy._renyi import quiet
from workbench.privacy.schedule import History

_EPSILON_ERROR = 0.01  # that Opacus adds, its default
_DELTA_SHARE = 1e-3  # of δ, likewise
_LARGEST_SHARE = 0.1  # of δ that rounding may take
_MOST_BYTES = 1 << 30
_ARRAYS = 16  # of N float64 that Opacus holds at once, and two more for every part
_UNIT = 2.0**-53


def prv_epsilon(history: History, delta: float) -> float:
    """Opacus's upper bound on ε, which adds its error of 0.01, of a checked history at ``delta``.

    Raises `InputError` where its grid takes more than a gigabyte, where rounding takes more than a
    tenth of δ, and where Opacus's own checks fail.
    """
    from opacus.accountants import PRVAccountant

    accountant: Any = PRVAccountant()
    accountant.history = list(history)
    error = {"eps_error": _EPSILON_ERROR, "delta_error": _DELTA_SHARE * delta}
    try:
        with quiet():
            points = _grid_points(history, delta)
            _refuse_large(points, len(history))
            composed = accountant._get_dprv(**error)
            left = delta - _hidden(composed.pmf, history, delta)
            *_, upper = composed.compute_epsilon(left, error["delta_error"], _EPSILON_ERROR)
    except InputError:
        raise
    except (RuntimeError, ValueError, ArithmeticError, IndexError) as failure:
        raise _refusal(" ".join(str(failure).split())[:200] or type(failure).__name__) from None
    if not upper >= 0:
        raise _refusal("its answer is no number")
    return float(upper)


def _refusal(reason: str) -> InputError:
    return InputError(
        f"Opacus's PRV accountant cannot follow these steps ({reason}); choose 'pld'."
    )


def _grid_points(history: History, delta: float) -> float:
    """How many points Opacus's grid will have: `PRVAccountant._get_domain` without building it."""
    from opacus.accountants.analysis.prv import (
        PoissonSubsampledGaussianPRV,
        compute_safe_domain_size,
    )

    steps = [count for _, _, count in history]
    reach = compute_safe_domain_size(
        [PoissonSubsampledGaussianPRV(rate, sigma) for sigma, rate, _ in history],
        steps,
        _EPSILON_ERROR,
        _DELTA_SHARE * delta,
    )
    mesh = _EPSILON_ERROR / math.sqrt(sum(steps) * math.log(12 / (_DELTA_SHARE * delta)) / 2)
    return 2 * float(reach) / mesh


def _refuse_large(points: float, parts: int) -> None:
    needed = 8 * points * (_ARRAYS + 2 * parts)
    if not needed <= _MOST_BYTES:
        size = f"{needed / 2**30:,.1f} GiB" if math.isfinite(needed) else "no end of memory"
        raise _refusal(f"its grid takes {size} and may take {_MOST_BYTES / 2**30:g}")


def _hidden(mass: np.ndarray, history: History, delta: float) -> float:
    """The most that rounding may have taken from δ."""
    size, steps = len(mass), sum(count for _, _, count in history)
    transforms = (steps + len(history)) * _UNIT * (8 * math.log2(size) + 64)
    hidden = math.sqrt(size) * float(np.linalg.norm(mass)) * transforms + 4 * size * _UNIT
    if not hidden <= _LARGEST_SHARE * delta:
        raise _refusal(f"rounding may hide {hidden:.2g} of δ, which is {delta:g}")
    return hidden
