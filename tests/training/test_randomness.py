"""Chance from separate streams: reproducible for teaching, or known to nobody."""

import numpy as np
import pytest
import torch

from workbench.config import RunConfig
from workbench.training.randomness import Randomness, apart, randomness

CPU = torch.device("cpu")


def _drawn(chance: Randomness) -> tuple[float, float, float]:
    return (
        float(torch.rand(1, generator=chance.initial)),
        float(chance.sampling.random()),
        float(torch.rand(1, generator=chance.noise)),
    )


def test_a_seed_decides_all_three_and_each_differs() -> None:
    one, same, other = (_drawn(randomness(RunConfig(seed=seed), CPU)) for seed in (0, 0, 1))
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert len(set(one)) == 3


@pytest.mark.parametrize("field", ["training.learning_rate", "privacy.max_grad_norm", "seed"])
def test_runs_that_differ_draw_independently(field: str) -> None:
    """Else two releases would share their noise, and no composition would hold."""
    one, other = RunConfig(), RunConfig().with_changes({field: 2})
    a, b = (randomness(config, CPU) for config in (one, other))
    noise, others = (torch.randn(1000, generator=chance.noise).numpy() for chance in (a, b))
    assert abs(np.corrcoef(noise, others)[0, 1]) < 5 / 1000**0.5
    draws, others = (chance.sampling.random(1000) for chance in (a, b))
    assert abs(np.corrcoef(draws, others)[0, 1]) < 5 / 1000**0.5


def test_the_runtime_changes_no_chance() -> None:
    other = RunConfig().with_changes({"runtime.engine": "hooks", "runtime.physical_batch_size": 3})
    assert _drawn(randomness(RunConfig(), CPU)) == _drawn(randomness(other, CPU))


def test_drawing_more_batches_moves_neither_noise_nor_weights() -> None:
    chance = randomness(RunConfig(), CPU)
    chance.sampling.random(1000)
    initial, _, noise = _drawn(chance)
    expected = _drawn(randomness(RunConfig(), CPU))
    assert (initial, noise) == (expected[0], expected[2])


def test_secure_batches_and_noise_are_new_each_time_and_the_weights_are_not() -> None:
    one, other = (_drawn(randomness(RunConfig(randomness="secure"), CPU)) for _ in range(2))
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[2] != other[2]


def test_a_secure_state_is_not_handed_out() -> None:
    assert randomness(RunConfig(randomness="secure"), CPU).state() is None


def test_a_restored_state_goes_on_where_it_was() -> None:
    chance = randomness(RunConfig(), CPU)
    _drawn(chance)
    state = chance.state()
    assert state is not None
    expected = _drawn(chance)
    again = randomness(RunConfig(), CPU)
    again.restore(*state)
    assert _drawn(again)[1:] == expected[1:]


def test_other_purposes_have_other_batches_and_noise_of_the_same_seed() -> None:
    def drawn(purpose: str) -> tuple[float, float, float]:
        return _drawn(apart(randomness(RunConfig(), CPU), RunConfig(), purpose))

    own, one, other = _drawn(randomness(RunConfig(), CPU)), drawn("session 2"), drawn("session 3")
    assert one == drawn("session 2")
    assert len({own[1:], one[1:], other[1:]}) == 3
    assert len({own[1], one[1], other[1]}) == len({own[2], one[2], other[2]}) == 3


def test_noise_of_a_seeded_run_is_not_numpys_nor_the_weights() -> None:
    """Two streams of one generator would be the same numbers in another order."""
    chance = randomness(RunConfig(), CPU)
    noise = torch.randn(1000, generator=chance.noise).numpy()
    weights = torch.randn(1000, generator=chance.initial).numpy()
    assert abs(np.corrcoef(noise, weights)[0, 1]) < 5 / 1000**0.5
