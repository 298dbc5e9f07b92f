"""Loss where data are repeated (Muennighoff et al. 2023, arXiv 2305.16264, section 3).

L = E + A/N′^α + B/D′^β. Repeated tokens count less than new ones, D′ = U + U·R_D·(1 − e^(−r/R_D))
with U unique tokens and r = D/U − 1 repetitions beyond the first. So do parameters beyond those
that are best for U: N′ is made the same way of N, of the number U_N at which αA/U_N^α = βB/U^β, and
of R_N.
"""

from itertools import product

import numpy as np
import pandas as pd

from workbench.scaling.law import Law, log_means, logs
from workbench.scaling.starts import best_cells, logs_of, non_negative

_MOST = 300.0  # of a logarithm of a ratio, before it overflows


class RepeatedDataLaw(Law):
    """The law of seven parameters; θ holds the logarithms of all."""

    name = "repeated_data"
    parameters = ("A", "B", "E", "alpha", "beta", "R_D", "R_N")
    columns = ("n_params", "tokens", "unique_tokens")
    formula = "L = E + A/N′^α + B/D′^β, D′ = U + U·R_D·(1 − e^(−(D/U − 1)/R_D))"
    exponents = ("alpha", "beta")
    floor = "E"
    width = 3

    def covariates(self, frame: pd.DataFrame) -> np.ndarray:
        """Logarithms of N, D and U, (points, 3)."""
        return logs(frame, *self.columns)

    def centre(self, x: np.ndarray) -> np.ndarray:
        """Mean logarithms of N and D; U is compared with D and moves with it."""
        return log_means(x)[[0, 1, 1]]

    def uncentred(self, theta: np.ndarray, means: np.ndarray) -> np.ndarray:
        """A and B take up what centring took off."""
        shifted = np.array(theta, copy=True)
        shifted[..., 0] += np.exp(theta[..., 3]) * means[0]
        shifted[..., 1] += np.exp(theta[..., 4]) * means[1]
        return shifted

    def log_loss_and_slopes(
        self, theta: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log L and its derivatives, shapes as in `Law`."""
        log_a, log_b, log_e, log_alpha, log_beta, log_rd, log_rn = theta.T[..., None]
        alpha, beta = np.exp(log_alpha), np.exp(log_beta)
        n, d, u = x[..., 0], x[..., 1], np.minimum(x[..., 2], x[..., 1])
        tokens, tokens_by_r, _ = _effective(d, u, log_rd)
        best = (log_a + log_alpha - log_b - log_beta + beta * u) / alpha
        params, params_by_r, params_by_best = _effective(n, np.minimum(best, n), log_rn)
        params_by_best = np.where(best < n, params_by_best, 0.0)
        terms = np.stack(
            np.broadcast_arrays(log_a - alpha * params, log_b - beta * tokens, log_e), axis=-1
        )
        log_loss = np.logaddexp.reduce(terms, axis=-1)
        of_n, of_d, of_e = np.moveaxis(np.exp(terms - log_loss[..., None]), -1, 0)
        slopes = [
            of_n * (1 - params_by_best),
            of_d + of_n * params_by_best,
            of_e,
            -of_n * (alpha * params + params_by_best * (1 - alpha * best)),
            -of_d * beta * tokens - of_n * params_by_best * (beta * u - 1),
            -of_d * beta * tokens_by_r,
            -of_n * alpha * params_by_r,
        ]
        return log_loss, np.stack(np.broadcast_arrays(*slopes), axis=-1)

    def starts(self, x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
        """The best cells of a grid of α, β and R_D, with N′ = N."""
        axis = np.geomspace(0.05, 1.5, 12)
        grid = np.array(list(product(axis, axis, (2.0, 12.0, 60.0))))
        alpha, beta = grid[:, 0, None], grid[:, 1, None]
        u = np.minimum(x[:, 2], x[:, 1])
        tokens = _effective(x[:, 1], u, np.log(grid[:, 2, None]))[0]
        constant = np.ones_like(tokens)
        basis = np.stack([np.exp(-alpha * x[:, 0]), np.exp(-beta * tokens), constant], axis=-1)
        basis /= np.exp(log_loss)[:, None]
        coefficients = non_negative(basis, np.ones(len(x)))
        best = best_cells(np.einsum("gnj,gj->gn", basis, coefficients), 20)
        start = np.concatenate([logs_of(coefficients[best]), np.log(grid[best])], axis=1)
        return np.concatenate(
            [np.c_[start, np.full(len(start), np.log(r))] for r in (5.0, 40.0)], axis=0
        )

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Exponents are at least .01; repetitions worth from a hundredth to e¹² epochs."""
        low, high = super().limits()
        low[3:5], high[3:5] = np.log(0.01), np.log(5)
        low[5:], high[5:] = np.log(0.01), 12.0
        return low, high


def _effective(
    whole: np.ndarray, unique: np.ndarray, log_r: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of what ``whole`` is worth, and its derivatives by log R and by log ``unique``."""
    r = np.exp(log_r)
    ratio = np.exp(np.minimum(whole - unique, _MOST))
    left = np.exp(-(ratio - 1) / r)
    worth = 1 + r * (1 - left)
    by_r = (r * (1 - left) - (ratio - 1) * left) / worth
    return unique + np.log(worth), by_r, 1 - ratio * left / worth
