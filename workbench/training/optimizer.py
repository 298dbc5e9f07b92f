"""From a clipped sum to new weights: noise, the fixed divisor, AdamW.

The step's gradient is (Σ clipped + 𝒩(0, σ²C²)) / B̄ (Abadi et al. 2016, algorithm 1) with B̄ the
*expected* batch size. The realised size is private under Poisson sampling, and dividing by it would
let it out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def noisy_mean(
    gradient_sum: Mapping[str, Tensor],
    *,
    noise_multiplier: float,
    max_grad_norm: float,
    expected_batch_size: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """(Σ clipped + noise) / B̄ for each parameter, drawn and added in float32 or wider.

    The noise has standard deviation ``noise_multiplier * max_grad_norm`` in every coordinate of the
    sum. ``generator`` lives on the device of the gradients and is used for nothing else.
    """
    noisy = {}
    for name, total in gradient_sum.items():
        # Noise rounded to bf16 is no longer Gaussian, and is lost where it is added to more.
        wide = total.to(torch.promote_types(total.dtype, torch.float32))
        noise = torch.empty_like(wide).normal_(
            std=noise_multiplier * max_grad_norm, generator=generator
        )
        noisy[name] = (wide + noise) / expected_batch_size
    return noisy


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; it only ever sees noisy gradients."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay)


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Mapping[str, Tensor]
) -> None:
    """Move the weights along ``gradients`` (parameter name → noisy mean gradient)."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = gradients[name].to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
