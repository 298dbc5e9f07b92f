"""Where to begin a fit: every combination of exponents on a grid, the coefficients solved for.

Given the exponents a law is linear, so that its coefficients follow from non-negative least squares
(variable projection, Golub & Pereyra 1973). With at most two exponents the grid is dense, and the
best cells all over it are polished: that many starts agree proves nothing where all of them lie in
one valley.
"""

from itertools import product

import numpy as np
from scipy.optimize import nnls

from workbench.scaling.huber import DELTA, huber
from workbench.scaling.laws import Law

_PER_EXPONENT = 24
_SMALLEST = 0.02
_CELLS = 30  # of the grid that are polished
_ABSENT = -40.0  # the logarithm of a coefficient that least squares put at 0


def starts(law: Law, x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
    """The best cells' parameters as logarithms, (cells, parameters).

    Args:
        law: the law.
        x: (points, covariates), centred, so that coefficients of all terms are of one size.
        log_loss: (points,).
    """
    axis = np.geomspace(_SMALLEST, law.largest_exponent, _PER_EXPONENT)
    grid = np.array(list(product(axis, repeat=len(law.exponents))))
    # Rows are divided by the loss: what is fitted are relative errors, as the logarithm's are.
    basis = law.basis(grid, x) / np.exp(log_loss)[:, None]
    coefficients = np.stack([_non_negative(cell) for cell in basis])
    fitted = np.einsum("gnj,gj->gn", basis, coefficients)
    loss = huber(np.log(np.maximum(fitted, 1e-300)), DELTA).sum(1)
    best = np.argsort(loss, kind="stable")[:_CELLS]
    logs = np.where(coefficients > 0, np.log(np.maximum(coefficients, 1e-300)), _ABSENT)
    return np.concatenate([logs[best], np.log(grid[best])], axis=1)


def _non_negative(basis: np.ndarray) -> np.ndarray:
    """The coefficients ≥ 0 with basis · coefficients nearest to ones, by the triangle of QR."""
    q, r = np.linalg.qr(basis)
    return nnls(r, q.sum(axis=0))[0]
