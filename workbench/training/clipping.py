"""The clipped gradient sum: what DP-SGD adds noise to.

Every record's gradient gᵢ, over all trainable parameters together, is scaled to norm at most C, and
the scaled gradients are summed: Σᵢ gᵢ·min(1, C/‖gᵢ‖₂) (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1), or Σᵢ gᵢ·C/(‖gᵢ‖₂ + γ) where it is normalised (Bu et al. 2022, arXiv 2206.07136).
Adding or removing one record then moves the sum by at most C, and on that alone the noise is
calibrated.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from workbench.errors import InputError, positive
from workbench.training.engines import ENGINES

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


def clipped_gradient_sum(
    model: nn.Module,
    record_losses: RecordLosses,
    *,
    max_grad_norm: float,
    engine: str = "bookkeeping",
    normalised: bool = False,
) -> ClippedSum:
    """Σᵢ gᵢ·min(1, C/‖gᵢ‖) over the records of one batch, or Σᵢ gᵢ·C/(‖gᵢ‖ + 0.01).

    Args:
        model: the model whose trainable parameters count; in training mode.
        record_losses: runs the forward pass and returns one loss a record, shape (batch,), each a
            function of its own record alone (no batch normalisation, no mean over the batch).
        max_grad_norm: the clipping norm C.
        engine: how it is computed: ``bookkeeping`` (one backward pass, fast), ``ghost`` (Opacus,
            two backward passes, no tied weights), ``hooks`` (Opacus, every record's gradient) or
            ``reference`` (one record at a time).
        normalised: scale every record to about C, the small ones too.

    A parameter that no loss depends on has a sum of zeros and is named in a warning; Opacus's
    engines refuse it. Raises
    `InputError` for an unknown engine, a C that is not above 0, a model in evaluation mode or one
    that the engine cannot treat, and `FloatingPointError` if a record's gradient is not finite.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine is {engine!r} but must be one of {', '.join(ENGINES)}; choose one."
        )
    positive("max_grad_norm", max_grad_norm, remedy="set the clipping norm")
    if not model.training:
        raise InputError("The model is in evaluation mode; call model.train() before clipping.")
    module = import_module(f"workbench.training.engines.{engine}")
    factors = partial(clip_factors, max_grad_norm=max_grad_norm, normalised=normalised)
    return module.clipped_gradient_sum(model, record_losses, factors=factors)


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


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, a tied one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
