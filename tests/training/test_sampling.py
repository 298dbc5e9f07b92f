"""Poisson sampling: every record on its own, every step anew, empty batches included."""

import numpy as np

from workbench.training.sampling import poisson_batch


def _batches(n_records: int, sample_rate: float, steps: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        poisson_batch(n_records, sample_rate=sample_rate, generator=generator) for _ in range(steps)
    ]


def test_batch_sizes_have_the_binomial_mean_and_variance() -> None:
    """2 000 batches: five standard errors are 0.5 for the mean and 15 % for the variance."""
    sizes = np.array([batch.size for batch in _batches(200, 0.1, 2000)])
    assert abs(sizes.mean() - 20) < 0.5
    assert abs(sizes.var() / (200 * 0.1 * 0.9) - 1) < 0.15


def test_every_record_is_as_likely_as_any_other() -> None:
    """Each count is binomial(2 000, 0.1); six standard deviations for the worst of 200."""
    counts = np.zeros(200)
    for batch in _batches(200, 0.1, 2000):
        counts[batch] += 1
    assert np.abs(counts - 200).max() < 6 * np.sqrt(2000 * 0.1 * 0.9)


def test_records_are_drawn_independently() -> None:
    """Fixed-size batches would correlate by −1/(n−1); with two records that is −1."""
    both = [batch.size == 2 for batch in _batches(2, 0.5, 4000)]
    assert abs(np.mean(both) - 0.25) < 0.035


def test_empty_batches_are_drawn_like_any_other() -> None:
    batches = _batches(5, 0.01, 300)
    assert len(batches) == 300
    assert min(batch.size for batch in batches) == 0


def test_a_rate_of_one_is_the_whole_data_set() -> None:
    assert all(batch.tolist() == list(range(50)) for batch in _batches(50, 1.0, 5))
