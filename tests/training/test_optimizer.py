"""Noise with the variance it claims, in float32 or wider, and a divisor that is a constant."""

import pytest
import torch
from scipy import stats
from torch import nn

from workbench.training.optimizer import adamw, noisy_mean, take_step

N = 200_000


def _noise(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> torch.Tensor:
    """The noise on a sum of zeros, in units of its claimed deviation σC/B̄ = 0.8 · 0.5 / 16."""
    noisy = noisy_mean(
        {"weight": torch.zeros(N, dtype=dtype)},
        noise_multiplier=0.8,
        max_grad_norm=0.5,
        expected_batch_size=16,
        generator=torch.Generator().manual_seed(seed),
    )
    return noisy["weight"] / (0.8 * 0.5 / 16)


def test_the_noise_has_the_variance_it_claims() -> None:
    """N·s² is χ² with N degrees of freedom; the interval holds for all but one seed in 10⁶."""
    low, high = stats.chi2.interval(1 - 1e-6, N)
    assert low < float(_noise().double().square().sum()) < high


def test_the_noise_is_gaussian() -> None:
    assert stats.kstest(_noise().numpy(), "norm").pvalue > 1e-6


def test_the_noise_of_two_parameters_is_independent() -> None:
    noisy = noisy_mean(
        {"one": torch.zeros(N), "two": torch.zeros(N)},
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=1,
        generator=torch.Generator().manual_seed(0),
    )
    # The correlation of N pairs has standard deviation 1/√N; five of them.
    assert abs(float((noisy["one"] * noisy["two"]).mean())) < 5 / N**0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_noise_is_drawn_and_added_in_float32_or_wider(dtype: torch.dtype) -> None:
    noise = _noise(dtype)
    assert noise.dtype == torch.promote_types(dtype, torch.float32)
    # Numbers drawn or rounded in bf16 would nearly all survive a second rounding to it.
    assert (noise.to(torch.bfloat16).to(noise.dtype) == noise).float().mean() < 0.01


def test_small_noise_is_not_lost_on_a_large_sum() -> None:
    """In bf16, 256 + 0.1 is 256."""
    noisy = noisy_mean(
        {"weight": torch.full((N,), 256.0, dtype=torch.bfloat16)},
        noise_multiplier=0.1,
        max_grad_norm=1.0,
        expected_batch_size=1,
        generator=torch.Generator().manual_seed(0),
    )
    assert float(noisy["weight"].std()) == pytest.approx(0.1, rel=0.02)


def test_the_sum_is_divided_by_the_expected_batch_size() -> None:
    noisy = noisy_mean(
        {"weight": torch.tensor([32.0])},
        noise_multiplier=1e-9,
        max_grad_norm=1.0,
        expected_batch_size=16,
        generator=torch.Generator(),
    )
    assert float(noisy["weight"]) == pytest.approx(2.0)


def test_a_step_moves_trainable_weights_and_leaves_no_gradient() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before = model.weight.clone()
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.0)
    take_step(model, optimizer, {"weight": torch.ones(1, 2)})
    # Adam's first step is the learning rate along the gradient's sign.
    torch.testing.assert_close(before - model.weight, torch.full((1, 2), 0.1))
    assert model.weight.grad is None
