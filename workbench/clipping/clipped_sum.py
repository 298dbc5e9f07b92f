"""What every engine works with: the sum, what losses and clipping factors are, small helpers."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.errors import InputError


class OtherRowsError(InputError):
    """An engine found rows that are not the records; whether records are mixed is not said."""


RecordLosses = Callable[[], Tensor]
STABILITY = 0.01  # γ of Bu et al. 2022: what is far smaller stays so instead of growing to C


@dataclass(frozen=True)
class ClippedSum:
    """A sum over records of clipped gradients, and the C that bounds each record's part of it.

    ``gradients`` maps each trainable parameter's name to a tensor of its shape, float32 or wider;
    ``norms`` is (batch,), each record's gradient norm before clipping. A tied parameter appears
    once, under its first name. ``max_grad_norm`` is C, infinite where nothing was clipped: noise
    takes its scale from it, so that no other C can stand beside the sum.
    """

    gradients: dict[str, Tensor]
    norms: Tensor
    max_grad_norm: float

    def with_part(self, part: Self) -> Self:
        """The sum over these records and those of ``part``, in the memory of these gradients.

        Raises `InputError` if the two were clipped to different C: no noise would fit their sum.
        """
        refuse_other_norms([self.max_grad_norm, part.max_grad_norm])
        for name, total in self.gradients.items():
            total += part.gradients[name]
        norms = torch.cat([self.norms, part.norms.to(self.norms.device)])
        return type(self)(self.gradients, norms, self.max_grad_norm)


@dataclass(frozen=True)
class Factors:
    """How records are clipped: from their norms (batch,) to what each gradient is multiplied by."""

    max_grad_norm: float
    normalised: bool = False

    def __call__(self, norms: Tensor) -> Tensor:
        """See `clip_factors`."""
        return clip_factors(norms, self.max_grad_norm, normalised=self.normalised)


def refuse_other_norms(max_grad_norms: Iterable[float]) -> None:
    """Raise `InputError` unless the parts of one sum were all clipped to the same C."""
    found = sorted(set(max_grad_norms))
    if len(found) > 1:
        raise InputError(
            f"max_grad_norm is {found[0]!r} in one part of a sum and {found[-1]!r} in another; clip"
            " every part of a batch to the same norm."
        )


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


def norm_of(tensors: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """The norm over all tensors together, (), in ``dtype``.

    Taken in float64 where there is any: squares of small numbers would vanish in float32, and those
    of large ones overflow.
    """
    parts = [vector_norm(t.flatten(), dtype=widest(t.device)) for t in tensors]
    return torch.stack(parts).norm().to(dtype) if parts else torch.zeros((), dtype=dtype)


def widest(device: torch.device) -> torch.dtype:
    """Float64, which Apple's GPUs lack."""
    return torch.float32 if device.type == "mps" else torch.float64


def warn_of_unused(names: Iterable[str]) -> None:
    """Name the parameters whose sum is zero because no record's loss depends on them."""
    if named := ", ".join(names):
        text = f"No loss depends on {named}: the clipped sum is zero there."
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def zeros(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A sum of nothing, float32 or wider."""
    dtypes = {name: torch.promote_types(p.dtype, torch.float32) for name, p in parameters.items()}
    return {name: torch.zeros_like(p, dtype=dtypes[name]) for name, p in parameters.items()}


@contextmanager
def gradients_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Leave ``.grad`` as it was: the backward pass also forms the unclipped sum there."""
    kept = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in kept:
        parameter.grad = None  # else the pass would add to the tensor that is kept
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, a tied one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
