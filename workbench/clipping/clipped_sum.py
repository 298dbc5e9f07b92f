"""What every engine works with: the sum, what losses and clipping factors are, small helpers."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RecordLosses = Callable[[], Tensor]
# From every record's norm (batch,) to what its gradient is multiplied by (batch,).
Factors = Callable[[Tensor], Tensor]
STABILITY = 0.01  # γ of Bu et al. 2022: what is far smaller stays so instead of growing to C


@dataclass(frozen=True)
class ClippedSum:
    """A sum over records of clipped gradients.

    ``gradients`` maps each trainable parameter's name to a tensor of its shape, float32 or wider;
    ``norms`` is (batch,), each record's gradient norm before clipping. A tied parameter appears
    once, under its first name.
    """

    gradients: dict[str, Tensor]
    norms: Tensor


def now_and_then(number: int) -> bool:
    """Whether a number is 1, 4, 16, 64 …"""
    return number & (number - 1) == 0 and number.bit_length() % 2 == 1


def clip_factors(norms: Tensor, max_grad_norm: float, *, normalised: bool = False) -> Tensor:
    """min(1, C/‖gᵢ‖) or C/(‖gᵢ‖ + 0.01) for each norm, in its precision, shape unchanged."""
    if not norms.isfinite().all():
        raise FloatingPointError(
            "A record's gradient is not finite, so it cannot be clipped; lower the learning rate."
        )
    if normalised:
        return max_grad_norm / (norms + STABILITY)
    return (max_grad_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)


def warn_of_unused(names: Iterable[str]) -> None:
    """Name the parameters whose sum is zero because no record's loss depends on them."""
    if named := ", ".join(names):
        text = f"No loss depends on {named}: the clipped sum is zero there."
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def zeros(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A sum of nothing, float32 or wider."""
    dtypes = {name: torch.promote_types(p.dtype, torch.float32) for name, p in parameters.items()}
    return {name: torch.zeros_like(p, dtype=dtypes[name]) for name, p in parameters.items()}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, a tied one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
