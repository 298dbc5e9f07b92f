"""Which records a step sees: each one with probability q, independently, every step anew.

This is the sampling the accountant assumes (Poisson). A batch's size is random, and an empty batch
is a step like any other: skipping it would tell that nobody was in it.
"""

from collections.abc import Iterator

import numpy as np


def poisson_batches(
    n_records: int, *, sample_rate: float, steps: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield ``steps`` arrays of record indices, ascending, shape (realised batch size,).

    Only ``generator`` decides: how a batch is later divided for memory cannot change it.
    """
    for _ in range(steps):
        yield np.flatnonzero(generator.random(n_records) < sample_rate)
