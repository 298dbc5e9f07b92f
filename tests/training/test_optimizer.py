"""Noise with the variance it claims, in float32 or wider, a constant divisor, and what follows."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from workbench.clipping.clipped_sum import ClippedSum
from workbench.config import TrainingConfig
from workbench.errors import InputError
from workbench.training.optimizer import (
    AdamWBC,
    gaussian_noise,
    learning_rate,
    noisy_mean,
    optimizer,
    take_step,
)

N = 200_000


def clipped(gradients: dict[str, Tensor], *, max_grad_norm: float = 1.0) -> ClippedSum:
    return ClippedSum(gradients, torch.zeros(0), max_grad_norm)


def _noise(dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Tensor:
    """The noise for a sum, in units of its claimed deviation σC = 0.8 · 0.5."""
    noise = gaussian_noise(
        clipped({"weight": torch.zeros(N, dtype=dtype)}, max_grad_norm=0.5),
        noise_multiplier=0.8,
        generator=torch.Generator().manual_seed(seed),
    )
    return noise["weight"] / (0.8 * 0.5)


def test_the_noise_has_the_variance_it_claims() -> None:
    """N·s² is χ² with N degrees of freedom; the interval holds for all but one seed in 10⁶."""
    low, high = stats.chi2.interval(1 - 1e-6, N)
    assert low < float(_noise().double().square().sum()) < high


def test_the_noise_is_gaussian() -> None:
    assert stats.kstest(_noise().numpy(), "norm").pvalue > 1e-6


def test_the_noise_of_two_parameters_is_independent() -> None:
    noise = gaussian_noise(
        clipped({"one": torch.zeros(N), "two": torch.zeros(N)}),
        noise_multiplier=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    # The correlation of N pairs has standard deviation 1/√N; five of them.
    assert abs(float((noise["one"] * noise["two"]).mean())) < 5 / N**0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_noise_is_drawn_and_added_in_float32_or_wider(dtype: torch.dtype) -> None:
    noise = _noise(dtype)
    assert noise.dtype == torch.promote_types(dtype, torch.float32)
    # Numbers drawn or rounded in bf16 would nearly all survive a second rounding to it.
    assert (noise.to(torch.bfloat16).to(noise.dtype) == noise).float().mean() < 0.01


def test_small_noise_is_not_lost_on_a_large_sum() -> None:
    """In bf16, 256 + 0.1 is 256."""
    total = {"weight": torch.full((N,), 256.0, dtype=torch.bfloat16)}
    noise = gaussian_noise(
        clipped(total), noise_multiplier=0.1, generator=torch.Generator().manual_seed(0)
    )
    noisy = noisy_mean(total, noise, expected_batch_size=1)
    assert float(noisy["weight"].std()) == pytest.approx(0.1, rel=0.02)


def test_the_noise_takes_its_scale_from_the_sum_that_it_hides() -> None:
    """Twice the C, twice the noise, and no argument beside the sum could say otherwise."""
    total, drawn = {"weight": torch.zeros(8)}, []
    for bound in (1.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        noise = gaussian_noise(
            clipped(total, max_grad_norm=bound), noise_multiplier=0.8, generator=generator
        )
        drawn.append(noise["weight"])
    torch.testing.assert_close(drawn[1], 2 * drawn[0])


def test_a_sum_without_a_bound_gets_no_noise() -> None:
    total = clipped({"weight": torch.zeros(8)}, max_grad_norm=math.inf)
    generator = torch.Generator()
    with pytest.raises(InputError, match="was not clipped"):
        gaussian_noise(total, noise_multiplier=0.8, generator=generator)
    assert not gaussian_noise(total, noise_multiplier=0.0, generator=generator)["weight"].any()


def test_parts_clipped_to_different_norms_are_not_added_up() -> None:
    one, other = (clipped({"weight": torch.ones(2)}, max_grad_norm=bound) for bound in (1.0, 0.5))
    with pytest.raises(InputError, match=r"max_grad_norm is 0\.5 in one part .* 1\.0 in another"):
        one.with_part(other)
    assert one.gradients["weight"].tolist() == [1, 1]
    assert one.with_part(one).gradients["weight"].tolist() == [2, 2]


def test_the_sum_is_divided_by_the_expected_batch_size() -> None:
    total = {"weight": torch.tensor([32.0])}
    noisy = noisy_mean(total, {"weight": torch.tensor([1.6])}, expected_batch_size=16)
    assert float(noisy["weight"]) == pytest.approx(2.1)
    assert float(total["weight"]) == 32.0


def _step(model: nn.Module, chosen: torch.optim.Optimizer, gradient: Tensor, **more: float) -> None:
    settings = {"learning_rate": 0.1, "noise_deviation": 0.0, **more}
    take_step(model, chosen, {"weight": gradient}, **settings)


def test_a_step_moves_trainable_weights_and_leaves_no_gradient() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before = model.weight.clone()
    _step(model, optimizer(model, TrainingConfig()), torch.ones(1, 2))
    # Adam's first step is the learning rate along the gradient's sign.
    torch.testing.assert_close(before - model.weight, torch.full((1, 2), 0.1))
    assert model.weight.grad is None


@pytest.mark.parametrize("steps", [1, 5])
def test_adam_without_noise_to_take_out_is_adam(steps: int) -> None:
    """Both divide by the root of the second moment; AdamW adds its 1e-8 outside of it."""
    one, other = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    other.load_state_dict(one.state_dict())
    config = TrainingConfig(weight_decay=0.3, beta2=0.9)
    adam = optimizer(one, config)
    corrected = optimizer(other, config.model_copy(update={"optimizer": "adamw_bc"}))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        gradient = torch.randn(1, 3, generator=generator)
        _step(one, adam, gradient)
        _step(other, corrected, gradient)
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-5, atol=1e-6)


def test_the_corrected_second_moment_is_that_of_the_signal() -> None:
    """A signal of 0.1 under noise of 0.5, then 0.2: plain Adam would see their squares' sum."""
    model = nn.Linear(N, 1, bias=False)
    corrected = AdamWBC([model.weight], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for deviation in [0.5] * 60 + [0.2] * 60:
        noisy = 0.1 + deviation * torch.randn(1, N, generator=generator)
        _step(model, corrected, noisy, noise_deviation=deviation)
    state = corrected.state[model.weight]
    unbiased = 1 - 0.99**120
    seen = float(state["second_moment"].mean()) / unbiased
    left = (float(state["second_moment"].mean()) - state["noise_moment"]) / unbiased
    assert seen > 0.1
    # 200 000 coordinates: the mean of their squares is known to better than a thousandth.
    assert left == pytest.approx(0.1**2, abs=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_rises_then_stays_or_falls(schedule: str) -> None:
    config = TrainingConfig.model_validate(
        {"learning_rate": 1.0, "warmup_steps": 3, "learning_rate_schedule": schedule}
    )
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    if schedule == "constant":
        assert set(rates[3:]) == {1.0}
    else:
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert 0 < rates[-1] < 0.1


def test_momentum_is_that_of_sgd() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    chosen = optimizer(model, TrainingConfig(optimizer="sgd", momentum=0.5))
    for _ in range(2):
        _step(model, chosen, torch.ones(1, 1))
    assert float(model.weight.detach()) == pytest.approx(-0.1 * (1 + 1.5))
