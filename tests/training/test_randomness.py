"""Chance from separate streams: reproducible for teaching, or known to nobody."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from workbench.config import RunConfig
from workbench.training.randomness import (
    Randomness,
    initial_weights,
    randomness,
    renewed,
    seeded,
)

CPU = torch.device("cpu")


def _drawn(chance: Randomness) -> tuple[float, float]:
    return float(chance.sampling.random()), float(torch.rand(1, generator=chance.noise))


def _seeded(fingerprint: str = "all", purpose: str = "run") -> Randomness:
    return seeded(randomness(RunConfig(), CPU), fingerprint, purpose)


def test_a_fingerprint_decides_batches_and_noise_and_each_differs() -> None:
    one, same, other = (_drawn(_seeded(of)) for of in ("one", "one", "other"))
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert one[0] != one[1]


def test_a_seed_decides_the_weights() -> None:
    one, same, other = (torch.rand(3, generator=initial_weights(seed)) for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("field", ["training.learning_rate", "privacy.max_grad_norm", "seed"])
def test_runs_that_differ_have_other_roots(field: str) -> None:
    one, other = RunConfig(), RunConfig().with_changes({field: 2})
    assert randomness(one, CPU).root == randomness(one, CPU).root
    assert randomness(one, CPU).root != randomness(other, CPU).root


@pytest.mark.parametrize("field", ["engine", "precision"])
def test_what_only_rounds_otherwise_has_another_root_too(field: str) -> None:
    """The same noise on sums that differ at all lets out their difference."""
    other = RunConfig().with_changes({f"runtime.{field}": {"engine": "hooks"}.get(field, "bf16")})
    assert randomness(RunConfig(), CPU).root != randomness(other, CPU).root


def test_other_records_other_weights_and_other_shapes_have_other_roots() -> None:
    records, weights = torch.arange(6).view(2, 3), torch.ones(2, dtype=torch.bfloat16)
    config = RunConfig()

    def root(*tensors: torch.Tensor) -> str:
        return randomness(config, CPU, tensors).root

    assert root(records, weights) == root(records.clone(), weights.clone())
    others = [(records[:1], weights), (records, weights / 2), (records.view(3, 2), weights)]
    assert root(records, weights) not in [root(*other) for other in others]
    assert root(torch.tensor(1.0)) != root(torch.tensor(2.0))  # of no dimension


def test_streams_of_two_fingerprints_are_independent() -> None:
    a, b = _seeded("one"), _seeded("other")
    noise, others = (torch.randn(1000, generator=chance.noise).numpy() for chance in (a, b))
    assert abs(np.corrcoef(noise, others)[0, 1]) < 5 / 1000**0.5
    draws, others = (chance.sampling.random(1000) for chance in (a, b))
    assert abs(np.corrcoef(draws, others)[0, 1]) < 5 / 1000**0.5


@pytest.mark.parametrize(
    "make", [lambda c: c, lambda c: seeded(c, None), lambda c: renewed(c, "f")]
)
def test_without_a_fingerprint_the_operating_system_draws(make: object) -> None:
    """Also for a run that is prepared and not yet told what decides it."""
    one, other = (_drawn(make(randomness(RunConfig(), CPU))) for _ in range(2))  # type: ignore[operator]
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_noise_starts_from_more_than_a_32_bit_seed() -> None:
    """Else its 2³² seeds could be tried one by one, whatever the operating system gave."""

    def grown_from_32_bits(generator: torch.Generator) -> bool:
        """Whether each word follows from the one before, as where the first is the seed."""
        words = generator.get_state()[24 : 24 + 8 * 624].view(torch.int64).tolist()
        following = 1812433253 * (words[0] ^ (words[0] >> 30)) + 1
        return words[1] == following % 2**32

    assert grown_from_32_bits(torch.Generator().manual_seed(7))
    fresh = randomness(RunConfig(), CPU)
    for chance in (fresh, _seeded(), renewed(fresh, "all")):
        assert not grown_from_32_bits(chance.noise)
        drawn = torch.empty(10_000).normal_(generator=chance.noise)
        assert kstest(drawn.numpy(), "norm").pvalue > 1e-6


def test_drawing_more_batches_does_not_move_the_noise() -> None:
    chance = _seeded()
    chance.sampling.random(1000)
    assert _drawn(chance)[1] == _drawn(_seeded())[1]


def test_a_state_that_nothing_vouches_for_is_not_handed_out() -> None:
    for config in (RunConfig(), RunConfig(randomness="secure")):
        chance = randomness(config, CPU)
        assert chance.state() is None
        assert seeded(chance, None).state() is None
        assert renewed(chance, None).state() is None


@pytest.mark.parametrize("go_on", [seeded, renewed])
def test_a_restored_state_goes_on_where_it_was(go_on: Callable[..., Randomness]) -> None:
    """Also of a run that went on with chance of the operating system."""
    chance = go_on(randomness(RunConfig(), CPU), "all")
    _drawn(chance)
    state = chance.state()
    assert state is not None
    expected = _drawn(chance)
    again = _seeded()
    sampling, noise = state
    again.restore(sampling, noise)
    assert _drawn(again) == expected


def test_other_purposes_have_other_batches_and_noise_of_the_same_fingerprint() -> None:
    own, one, other = (_drawn(_seeded(purpose=of)) for of in ("run", "calibration 1", "another"))
    assert one == _drawn(_seeded(purpose="calibration 1"))
    assert len({own[0], one[0], other[0]}) == len({own[1], one[1], other[1]}) == 3


def test_noise_of_a_seeded_run_is_not_numpys_nor_the_weights() -> None:
    """Two streams of one generator would be the same numbers in another order."""
    noise = torch.randn(1000, generator=_seeded().noise).numpy()
    weights = torch.randn(1000, generator=initial_weights(RunConfig().seed)).numpy()
    assert abs(np.corrcoef(noise, weights)[0, 1]) < 5 / 1000**0.5
