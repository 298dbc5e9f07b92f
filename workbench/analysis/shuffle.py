"""What shuffling is known to cost at least: one attack on one epoch that anyone can check.

Poisson accounting does not cover batches cut from a shuffled data set, which is how most data
loaders draw them. Chua et al. 2024 (arXiv 2403.17673, section 3) give a pair of neighbouring data
sets that tells how far it can be off. The record in question has gradient +1, all others −1, C = 1,
and its neighbour has that record zeroed out. Up to a shift, an epoch of T noisy batch sums is then
T normal variables of deviation σ with mean 0, but for one unknown batch of mean 2, or of mean 1 in
the neighbour. Guessing by the largest sum bounds ε from below.

>>> bound = shuffle_lower_bound(0.5, batches=1000, delta=1e-5)
>>> from workbench import privacy
>>> bound > privacy.epsilon(0.5, 1 / 1000, 1000, 1e-5)
True
"""

import numpy as np
from scipy.stats import norm

from workbench.errors import positive, probability, whole


def shuffle_lower_bound(noise_multiplier: float, *, batches: int, delta: float) -> float:
    """An ε that one shuffled epoch of ``batches`` batches exceeds or equals at ``delta``; ≥ 0.

    Neighbours are by zeroing one record out. No upper bound: the truth may be higher. Raises
    `InputError` on values out of range.
    """
    sigma = positive("noise_multiplier", noise_multiplier, remedy="choose something like 1")
    batches = whole("batches", batches, least=1, remedy="count the batches of an epoch")
    probability("delta", delta, remedy="choose one such as 1e-5")
    threshold = np.linspace(-3 * sigma, 3 + 12 * sigma, 4001)
    others = (batches - 1) * norm.logcdf(threshold / sigma)
    with_record = -np.expm1(norm.logcdf((threshold - 2) / sigma) + others)
    without = -np.expm1(norm.logcdf((threshold - 1) / sigma) + others)
    useful = (with_record > delta) & (without > 1e-300)
    ratios = (with_record[useful] - delta) / without[useful]
    return float(max(0.0, np.log(ratios.max(initial=1.0))))
