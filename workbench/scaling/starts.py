"""Where to begin a fit: every combination of exponents on a grid, the coefficients solved for.

Given the exponents a law is linear, so that its coefficients follow from non-negative least squares
(variable projection, Golub & Pereyra 1973). With at most two exponents the grid is dense, and the
best cells all over it are polished: that many starts agree proves nothing where all of them lie in
one valley.
"""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np

from workbench.scaling.huber import DELTA, huber

_PER_EXPONENT = 24
_SMALLEST = 0.02
CELLS = 30  # of the grid that are polished
ABSENT = -40.0  # the logarithm of a coefficient that least squares put at 0


def grid_starts(
    basis: Callable[[np.ndarray, np.ndarray], np.ndarray],
    exponents: int,
    largest: float,
    x: np.ndarray,
    log_loss: np.ndarray,
) -> np.ndarray:
    """The best cells' parameters as logarithms, coefficients first, (cells, parameters).

    Args:
        basis: what coefficients multiply, (grid, points, terms), of exponents (grid, exponents)
            and covariates.
        exponents: how many there are.
        largest: where the grid of each ends.
        x: (points, covariates), centred, so that coefficients of all terms are of one size.
        log_loss: (points,).
    """
    axis = np.geomspace(_SMALLEST, largest, _PER_EXPONENT)
    grid = np.array(list(product(axis, repeat=exponents)))
    # Rows are divided by the loss: what is fitted are relative errors, as the logarithm's are.
    relative = basis(grid, x) / np.exp(log_loss)[:, None]
    coefficients = non_negative(relative, np.ones(len(x)))
    fitted = np.einsum("gnj,gj->gn", relative, coefficients)
    best = best_cells(fitted)
    return np.concatenate([logs_of(coefficients[best]), np.log(grid[best])], axis=1)


def best_cells(relative: np.ndarray, count: int = CELLS) -> np.ndarray:
    """The cells (count,) of least objective, by fitted over measured loss (cells, points)."""
    loss = huber(np.log(np.maximum(relative, 1e-300)), DELTA).sum(1)
    return np.argsort(loss, kind="stable")[:count]


def logs_of(coefficients: np.ndarray) -> np.ndarray:
    """Logarithms of coefficients, with a stand-in for 0."""
    return np.where(coefficients > 0, np.log(np.maximum(coefficients, 1e-300)), ABSENT)


def non_negative(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The coefficients ≥ 0, (cells, terms), with basis · coefficients nearest to the target.

    Args:
        basis: (cells, points, terms), a handful of terms.
        target: (points,) or (cells, points).

    The least squares of every subset of terms are solved for all cells at once; of those whose
    coefficients are all positive, the best is the answer.
    """
    cells, _, terms = basis.shape
    length = np.sqrt(np.einsum("gnj,gnj->gj", basis, basis)) + 1e-300
    scaled = basis / length[:, None, :]
    gram = np.einsum("gni,gnj->gij", scaled, scaled) + 1e-12 * np.eye(terms)
    right = np.einsum("gnj,gn->gj", scaled, np.broadcast_to(target, basis.shape[:2]))
    best, explained = np.zeros((cells, terms)), np.zeros(cells)
    for size in range(1, terms + 1):
        for subset in combinations(range(terms), size):
            own = np.array(subset)
            solved = np.linalg.solve(gram[:, own[:, None], own], right[:, own, None])[..., 0]
            gain = np.einsum("gj,gj->g", solved, right[:, own])
            better = (solved >= 0).all(axis=1) & (gain > explained)
            whole = np.zeros((cells, terms))
            whole[:, own] = solved
            best[better], explained[better] = whole[better], gain[better]
    return best / length
