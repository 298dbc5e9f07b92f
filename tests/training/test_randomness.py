"""Chance from separate streams: reproducible for teaching, or known to nobody."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from workbench.config import RunConfig
from workbench.training.randomness import Randomness, apart, initial_weights, randomness

CPU = torch.device("cpu")


def _drawn(chance: Randomness) -> tuple[float, float]:
    return float(chance.sampling.random()), float(torch.rand(1, generator=chance.noise))


def test_a_seed_decides_batches_and_noise_and_each_differs() -> None:
    one, same, other = (_drawn(randomness(RunConfig(seed=seed), CPU)) for seed in (0, 0, 1))
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert one[0] != one[1]


def test_a_seed_decides_the_weights() -> None:
    one, same, other = (torch.rand(3, generator=initial_weights(seed)) for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("field", ["training.learning_rate", "privacy.max_grad_norm", "seed"])
def test_runs_that_differ_draw_independently(field: str) -> None:
    """Else two releases would share their noise, and no composition would hold."""
    one, other = RunConfig(), RunConfig().with_changes({field: 2})
    a, b = (randomness(config, CPU) for config in (one, other))
    noise, others = (torch.randn(1000, generator=chance.noise).numpy() for chance in (a, b))
    assert abs(np.corrcoef(noise, others)[0, 1]) < 5 / 1000**0.5
    draws, others = (chance.sampling.random(1000) for chance in (a, b))
    assert abs(np.corrcoef(draws, others)[0, 1]) < 5 / 1000**0.5


@pytest.mark.parametrize("field", ["engine", "precision"])
def test_what_only_rounds_otherwise_draws_independently_too(field: str) -> None:
    """The same noise on sums that differ at all lets out their difference."""
    other = RunConfig().with_changes({f"runtime.{field}": {"engine": "hooks"}.get(field, "bf16")})
    assert _drawn(randomness(RunConfig(), CPU)) != _drawn(randomness(other, CPU))


def test_other_records_and_other_weights_draw_independently() -> None:
    records, weights = torch.arange(6).view(2, 3), torch.ones(2, dtype=torch.bfloat16)
    config = RunConfig()
    one = _drawn(randomness(config, CPU, (records, weights)))
    assert one == _drawn(randomness(config, CPU, (records.clone(), weights.clone())))
    assert one != _drawn(randomness(config, CPU, (records[:1], weights)))
    assert one != _drawn(randomness(config, CPU, (records, weights / 2)))


def test_noise_starts_from_more_than_a_32_bit_seed() -> None:
    """Else its 2³² seeds could be tried one by one, whatever the operating system gave."""

    def grown_from_32_bits(generator: torch.Generator) -> bool:
        """Whether each word follows from the one before, as where the first is the seed."""
        words = generator.get_state()[24 : 24 + 8 * 624].view(torch.int64).tolist()
        following = 1812433253 * (words[0] ^ (words[0] >> 30)) + 1
        return words[1] == following % 2**32

    assert grown_from_32_bits(torch.Generator().manual_seed(7))
    for config in (RunConfig(), RunConfig(randomness="secure")):
        chance = randomness(config, CPU)
        for noise in (chance.noise, apart(chance, "session 2").noise):
            assert not grown_from_32_bits(noise)
            drawn = torch.empty(10_000).normal_(generator=noise)
            assert kstest(drawn.numpy(), "norm").pvalue > 1e-6


def test_drawing_more_batches_does_not_move_the_noise() -> None:
    chance = randomness(RunConfig(), CPU)
    chance.sampling.random(1000)
    assert _drawn(chance)[1] == _drawn(randomness(RunConfig(), CPU))[1]


def test_secure_batches_and_noise_are_new_each_time() -> None:
    one, other = (_drawn(randomness(RunConfig(randomness="secure"), CPU)) for _ in range(2))
    assert one[0] != other[0]
    assert one[1] != other[1]


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
    assert _drawn(again) == expected


def test_other_purposes_have_other_batches_and_noise_of_the_same_seed() -> None:
    def drawn(purpose: str) -> tuple[float, float]:
        return _drawn(apart(randomness(RunConfig(), CPU), purpose))

    own, one, other = _drawn(randomness(RunConfig(), CPU)), drawn("session 2"), drawn("session 3")
    assert one == drawn("session 2")
    assert len({own[0], one[0], other[0]}) == len({own[1], one[1], other[1]}) == 3


def test_noise_of_a_seeded_run_is_not_numpys_nor_the_weights() -> None:
    """Two streams of one generator would be the same numbers in another order."""
    chance = randomness(RunConfig(), CPU)
    noise = torch.randn(1000, generator=chance.noise).numpy()
    weights = torch.randn(1000, generator=initial_weights(RunConfig().seed)).numpy()
    assert abs(np.corrcoef(noise, weights)[0, 1]) < 5 / 1000**0.5
