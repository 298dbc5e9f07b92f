"""Least squares under order: tables that fall along one axis and rise along the other.

>>> table = np.array([[3.0, 2.0, 2.4], [3.1, 2.6, 2.2]])
>>> monotone(table, np.ones_like(table)).round(2).tolist()
[[3.0, 2.2, 2.2], [3.1, 2.6, 2.2]]
"""

import numpy as np
from scipy.optimize import isotonic_regression

_ROUNDS = 60
_SETTLED = 1e-7


def monotone(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The table nearest to ``table`` that rises down its rows and falls along its columns.

    Args:
        table: (noise levels, steps), rows by rising noise, columns by rising steps.
        weights: of the squares, of the same shape, above 0.

    Dykstra's alternating projections onto both orders (Boyle & Dykstra 1986).
    """
    current = table.copy()
    of_rows, of_columns = np.zeros_like(table), np.zeros_like(table)
    for _ in range(_ROUNDS):
        before = current
        target = current + of_rows
        current = _each(target, weights, increasing=False)
        of_rows = target - current
        target = current + of_columns
        current = _each(target.T, weights.T, increasing=True).T
        of_columns = target - current
        if np.abs(current - before).max() < _SETTLED:
            break
    return current


def _each(rows: np.ndarray, weights: np.ndarray, *, increasing: bool) -> np.ndarray:
    return np.stack(
        [
            isotonic_regression(row, weights=weight, increasing=increasing).x
            for row, weight in zip(rows, np.ascontiguousarray(weights), strict=True)
        ]
    )
