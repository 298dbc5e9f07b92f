"""C follows the quantile it is told to, by counts with the sensitivity that σ pays for."""

import numpy as np
import pytest
import torch

from workbench.training.quantile import count_below, moved_norm, noisy_share_below


def _share(below: int, batch: int, *, noise: float = 1e-9, expected: int = 100) -> float:
    return noisy_share_below(
        below,
        batch,
        count_noise_multiplier=noise,
        expected_batch_size=expected,
        generator=torch.Generator().manual_seed(0),
    )


def test_one_record_moves_the_count_by_one_half() -> None:
    """Whichever side of C it falls on: so many records more or less, times the divisor."""
    for below in (0, 1):
        assert abs(_share(30 + below, 61) - _share(30, 60)) * 100 == pytest.approx(0.5)


def test_the_share_is_right_on_average_over_batch_sizes() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        batch = int(rng.binomial(1000, 0.1))
        shares.append(_share(int(rng.binomial(batch, 0.7)), batch))
    # Each has a deviation of about 0.05; four standard errors of the mean.
    assert np.mean(shares) == pytest.approx(0.7, abs=4 * 0.05 / 4000**0.5)


def test_the_noise_of_the_count_has_its_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = [
        noisy_share_below(
            5, 10, count_noise_multiplier=3.0, expected_batch_size=10, generator=generator
        )
        for _ in range(20_000)
    ]
    # The deviation of 20 000 draws is known to half a per cent; four of those.
    assert np.std(shares) == pytest.approx(3.0 / 10, rel=0.02)


@pytest.mark.parametrize(("share", "arrives"), [(1e9, 1e-30), (-1e9, 1e30)])
def test_a_count_that_is_all_noise_leaves_a_norm_that_can_be_used(
    share: float, arrives: float
) -> None:
    bound = 1.0
    for _ in range(3):
        bound = moved_norm(bound, share, quantile=0.5, rate=10.0)
    assert bound == pytest.approx(arrives, rel=1e-6, abs=0)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.9])
def test_c_arrives_at_its_quantile_from_far_away(quantile: float) -> None:
    norms = torch.tensor(np.random.default_rng(0).lognormal(0, 0.5, 2000))
    bound = 100.0
    for _ in range(200):
        share = _share(count_below(norms, bound), len(norms), noise=20.0, expected=2000)
        bound = moved_norm(bound, share, quantile=quantile, rate=0.2)
    assert bound == pytest.approx(float(norms.quantile(quantile)), rel=0.05)
