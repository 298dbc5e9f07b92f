"""Gaussian numbers: as far out as a Gaussian goes, the same again from the same state."""

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.clipping.clipped_sum import ClippedSum
from workbench.training import noise as noise_module
from workbench.training.noise import normal
from workbench.training.optimizer import gaussian_noise
from workbench.training.quantile import noisy_share_below

CPU = torch.device("cpu")
# A word of the Mersenne Twister's state that comes out as 32 ones.
ONES = 0x12DD9BB3


def _tempered(word: int) -> int:
    """What MT19937 makes of a word of its state (Matsumoto and Nishimura 1998, section 2.1)."""
    word ^= word >> 11
    word ^= (word << 7) & 0x9D2C5680
    word ^= (word << 15) & 0xEFC60000
    return word ^ (word >> 18)


def _at_the_smallest_uniform() -> torch.Generator:
    """A generator whose next 600 words are all ones: the least that log(1 − u) can be taken of."""
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    state[8:12] = torch.tensor([624], dtype=torch.int32).view(torch.uint8)  # words left
    state[16:24] = torch.tensor([0], dtype=torch.int64).view(torch.uint8)  # the next one
    state[24 : 24 + 8 * 624].view(torch.int64).fill_(ONES)
    generator.set_state(state)
    return generator


def test_the_word_is_the_one_that_comes_out_as_ones() -> None:
    assert _tempered(ONES) == 2**32 - 1
    assert float(torch.rand(1, generator=_at_the_smallest_uniform())) == 1 - 2**-24


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
def test_noise_comes_from_53_bits_whatever_the_size(n: int) -> None:
    """√(2·53·ln 2) = 8.57 deviations; from float32's 24 bits it is 5.77. Small tensors differ."""
    total = ClippedSum({"weight": torch.zeros(n)}, torch.zeros(0), max_grad_norm=2.0)
    generator = _at_the_smallest_uniform()
    drawn = gaussian_noise(total, noise_multiplier=0.5, generator=generator)["weight"]
    assert float(drawn.abs().max()) == pytest.approx((2 * 53 * np.log(2)) ** 0.5, rel=1e-6)


def test_the_noise_of_a_count_comes_from_53_bits() -> None:
    share = noisy_share_below(
        5,
        10,
        count_noise_multiplier=3.0,
        expected_batch_size=1,
        generator=_at_the_smallest_uniform(),
    )
    assert abs(share - 0.5) == pytest.approx(3 * (2 * 53 * np.log(2)) ** 0.5, rel=1e-6)


def test_the_tail_holds_what_a_gaussian_has_there() -> None:
    """Beyond 4 and 4.8 deviations; a Poisson interval that holds for all but one seed in 10⁶."""
    n = 5_000_000
    drawn = normal(
        (n,), deviation=1.0, dtype=torch.float32, device=CPU, generator=_generator(1)
    ).abs()
    for beyond in (4.0, 4.8):
        low, high = stats.poisson.interval(1 - 1e-6, 2 * n * stats.norm.sf(beyond))
        assert low <= int((drawn > beyond).sum()) <= high


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (7, 9), (40, 40)])
def test_pieces_are_independent_and_repeat(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_module, "_PIECE", 64)
    one, same = (
        normal(shape, deviation=2.0, dtype=torch.float32, device=CPU, generator=_generator(3))
        for _ in range(2)
    )
    assert one.shape == shape
    assert torch.equal(one, same)
    assert len(one.flatten().unique()) == one.numel()


def test_no_float64_copy_of_a_model_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    empty = torch.empty

    def watched(*args: object, **kwargs: object) -> torch.Tensor:
        made.append(empty(*args, **kwargs))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(torch, "empty", watched)
    n = 3 * noise_module._PIECE
    normal((n,), deviation=1.0, dtype=torch.float32, device=CPU, generator=_generator(0))
    wide = [tensor.numel() for tensor in made if tensor.dtype == torch.float64]
    assert wide == [noise_module._PIECE]
