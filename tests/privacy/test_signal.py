"""The three noise readouts mean what they say, checked by drawing the noise."""

import numpy as np
import pytest

from workbench import privacy
from workbench.errors import InputError

SIGMA, C, BATCH, PARAMETERS, GRADIENT = 1.3, 0.7, 64, 20_000, 0.2


def test_update_noise_to_signal_is_the_length_of_drawn_noise_over_the_signal() -> None:
    noise = np.random.default_rng(0).normal(0, SIGMA * C, PARAMETERS) / BATCH
    drawn = np.linalg.norm(noise) / GRADIENT
    stated = privacy.update_noise_to_signal(SIGMA, C, BATCH, PARAMETERS, GRADIENT)
    # The norm of d Gaussians varies by 1/√(2d): 0.5 % here; four of these.
    assert drawn == pytest.approx(stated, rel=0.02)


def test_the_noise_batch_ratio_is_the_deviation_of_the_mean_at_unit_clipping() -> None:
    noise = np.random.default_rng(1).normal(0, SIGMA, PARAMETERS) / BATCH
    assert noise.std() == pytest.approx(privacy.noise_batch_ratio(SIGMA, BATCH), rel=0.02)


def test_doubling_the_batch_halves_the_noise_but_the_articles_ratio_falls_by_root_two() -> None:
    actual = [privacy.update_noise_to_signal(SIGMA, C, b, PARAMETERS, GRADIENT) for b in (64, 128)]
    article = [privacy.article_nsr(SIGMA, C, b, GRADIENT) for b in (64, 128)]
    assert actual[0] / actual[1] == pytest.approx(2)
    assert article[0] / article[1] == pytest.approx(2**0.5)


def test_arrays_broadcast() -> None:
    sigma, batch = np.array([[1.0], [2.0]]), np.array([10.0, 20.0, 40.0])
    assert privacy.noise_batch_ratio(sigma, batch).shape == (2, 3)
    assert privacy.article_nsr(1.0, 1.0, 4.0, 0.5) == 1.0


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_values_name_the_field(bad: float) -> None:
    with pytest.raises(InputError, match="batch_size"):
        privacy.noise_batch_ratio(1.0, bad)
    with pytest.raises(InputError, match="mean_gradient_norm"):
        privacy.article_nsr(1.0, 1.0, 4.0, bad)
    with pytest.raises(InputError, match="batch_size"):
        privacy.noise_batch_ratio(1.0, np.asarray([1.0, bad], dtype=np.float64))
