"""The lower bound for shuffled batches is the attack it describes, checked by running it."""

import math

import numpy as np
import pytest

from workbench import privacy
from workbench.analysis.shuffle import shuffle_lower_bound
from workbench.errors import InputError

SIGMA, BATCHES = 0.8, 37


def test_the_attack_itself_reaches_the_bound() -> None:
    """One epoch simulated 400 000 times at δ = 0.01, where simple counting sees the bound."""
    draw, runs, delta = np.random.default_rng(0), 400_000, 0.01
    largest = [
        np.maximum(
            draw.normal(0, SIGMA, (runs, BATCHES - 1)).max(axis=1), draw.normal(mean, SIGMA, runs)
        )
        for mean in (2, 1)
    ]
    bound = shuffle_lower_bound(SIGMA, batches=BATCHES, delta=delta)
    best = max(
        math.log((np.mean(largest[0] > at) - delta) / np.mean(largest[1] > at))
        for at in np.linspace(0.5, 3.5, 31)
    )
    # The rarest event counted has about 400 hits or more at the best threshold: 5 % of a ratio.
    assert bound == pytest.approx(best, abs=0.1)


def test_it_exceeds_what_poisson_accounting_claims_where_noise_is_small() -> None:
    claimed = privacy.epsilon(SIGMA, 1 / BATCHES, BATCHES, 1e-5)
    assert shuffle_lower_bound(SIGMA, batches=BATCHES, delta=1e-5) > 2 * claimed


def test_it_stays_below_the_guarantee_of_batches_that_everyone_knows() -> None:
    """Without any chance, the record is in one known batch: one Gaussian step at distance 1."""
    known = privacy.epsilon(SIGMA, 1.0, 1, 1e-5)
    assert shuffle_lower_bound(SIGMA, batches=BATCHES, delta=1e-5) <= known
    assert shuffle_lower_bound(SIGMA, batches=1, delta=1e-5) <= known * (1 + 1e-9)


def test_more_noise_or_a_larger_delta_never_raises_it() -> None:
    sigmas = [shuffle_lower_bound(s, batches=100, delta=1e-5) for s in (0.3, 0.6, 1.2, 2.4, 20)]
    deltas = [shuffle_lower_bound(SIGMA, batches=100, delta=d) for d in (1e-8, 1e-5, 1e-2, 0.5)]
    assert sigmas == sorted(sigmas, reverse=True)
    assert deltas == sorted(deltas, reverse=True)
    assert sigmas[-1] >= 0


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="batches"):
        shuffle_lower_bound(1.0, batches=0, delta=1e-5)
    with pytest.raises(InputError, match="delta"):
        shuffle_lower_bound(1.0, batches=10, delta=1.0)
    with pytest.raises(InputError, match="noise_multiplier"):
        shuffle_lower_bound(0.0, batches=10, delta=1e-5)
