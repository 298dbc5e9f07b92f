"""A quantile of the gradient norms, followed privately: C by noisy counts.

Each step counts the records whose norm is at most C, adds noise to the count, and moves C towards
the quantile wanted (Andrew et al. 2021, arXiv 1905.03871, algorithm 1). A record enters as +½ or
−½, so that it moves the count by ½ and not by 1; `workbench.training.plan.gradient_share` pays.
"""

import math

import torch
from torch import Tensor

from workbench.config import LARGEST
from workbench.training.noise import normal

_MOST = 50.0  # of the exponent; only noise alone would move C by as much


def noisy_share_below(
    below: int,
    batch_size: int,
    *,
    count_noise_multiplier: float,
    expected_batch_size: int,
    generator: torch.Generator,
) -> float:
    """The noisy share of records with a norm at most C: (Σ(bᵢ − ½) + 𝒩(0, σ²))/B̄ + ½.

    ``below`` of ``batch_size`` records have it. The divisor is the expected batch size, since the
    realised one is private.
    """
    cpu = torch.device("cpu")
    noise = normal(
        (1,),
        deviation=count_noise_multiplier,
        dtype=torch.float64,
        device=cpu,
        generator=generator,
    )
    count = below - batch_size / 2 + float(noise)
    return count / expected_batch_size + 0.5


def count_below(norms: Tensor, max_grad_norm: float) -> int:
    """How many of ``norms`` (batch,) clipping to C leaves as they are."""
    return int((norms <= max_grad_norm).sum())


def moved_norm(max_grad_norm: float, share_below: float, *, quantile: float, rate: float) -> float:
    """C for the next step: C·exp(−η(share − quantile)), within what a C may be at all.

    A count under far too much noise says nothing; it must not end the run.
    """
    exponent = min(max(-rate * (share_below - quantile), -_MOST), _MOST)
    return min(max(max_grad_norm * math.exp(exponent), 1 / LARGEST), LARGEST)
