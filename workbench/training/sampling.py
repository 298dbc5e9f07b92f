"""Which records a step sees: each one with probability q, independently, every step anew.

This is the sampling the accountant assumes (Poisson). A batch's size is random, and an empty batch
is a step like any other: skipping it would tell that nobody was in it.
"""

import numpy as np


def poisson_batch(
    n_records: int, *, sample_rate: float, generator: np.random.Generator
) -> np.ndarray:
    """The indices of one batch, ascending, shape (realised batch size,).

    Only ``generator`` decides: how a batch is later divided for memory, or between processes,
    cannot change it.
    """
    return np.flatnonzero(generator.random(n_records) < sample_rate)
