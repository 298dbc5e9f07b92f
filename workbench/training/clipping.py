"""The clipped gradient sum: what DP-SGD adds noise to.

Every record's gradient gᵢ, over all trainable parameters together, is scaled to norm at most C, and
the scaled gradients are summed: Σᵢ gᵢ·min(1, C/‖gᵢ‖₂) (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1). Adding or removing one record then moves the sum by at most C, and on that alone the
noise is calibrated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn

from workbench.errors import InputError, positive
from workbench.training.engines import ENGINES

RecordLosses = Callable[[], Tensor]


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
) -> ClippedSum:
    """Σᵢ gᵢ·min(1, C/‖gᵢ‖) over the records of one batch.

    Args:
        model: the model whose trainable parameters count; in training mode.
        record_losses: runs the forward pass and returns one loss a record, shape (batch,), each a
            function of its own record alone (no batch normalisation, no mean over the batch).
        max_grad_norm: the clipping norm C.
        engine: how it is computed: ``bookkeeping`` (one backward pass, fast), ``hooks`` (Opacus)
            or ``reference`` (one record at a time).

    Raises `InputError` for an unknown engine, a C that is not above 0, or a model that the engine
    cannot treat, and `FloatingPointError` if a record's gradient is not finite.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r} but must be one of {', '.join(ENGINES)}.")
    positive("max_grad_norm", max_grad_norm, remedy="set the clipping norm")
    module = import_module(f"workbench.training.engines.{engine}")
    return module.clipped_gradient_sum(model, record_losses, max_grad_norm=max_grad_norm)


def clip_factors(norms: Tensor, max_grad_norm: float) -> Tensor:
    """min(1, C/‖gᵢ‖) for each norm, in the precision of ``norms``, shape unchanged."""
    if not norms.isfinite().all():
        raise FloatingPointError(
            "A record's gradient is not finite, so it cannot be clipped; lower the learning rate."
        )
    return (max_grad_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, a tied one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
