"""The clipped gradient sum: what DP-SGD adds noise to.

Every record's gradient gᵢ, over all trainable parameters together, is scaled to norm at most C, and
the scaled gradients are summed: Σᵢ gᵢ·min(1, C/‖gᵢ‖₂) (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1), or Σᵢ gᵢ·C/(‖gᵢ‖₂ + γ) where it is normalised (Bu et al. 2022, arXiv 2206.07136).
Adding or removing one record then moves the sum by at most C, and on that alone the noise is
calibrated.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from workbench.errors import InputError, positive
from workbench.training.engines import ENGINES
from workbench.training.engines.unchanged import refusing_changes

RecordLosses = Callable[[], Tensor]
# From every record's norm (batch,) to what its gradient is multiplied by (batch,).
Factors = Callable[[Tensor], Tensor]
_CALLS: WeakKeyDictionary[nn.Module, Counter[str]] = WeakKeyDictionary()  # by engine
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
            function of its own record alone (no batch normalisation, no mean over the batch). Of an
            empty batch it returns ``torch.zeros(0)``, because few models run on nothing.
        max_grad_norm: the clipping norm C.
        engine: how it is computed: ``bookkeeping`` (one backward pass, fast), ``ghost`` (Opacus,
            two backward passes, no tied weights), ``hooks`` (Opacus, every record's gradient) or
            ``reference`` (one record at a time).
        normalised: scale every record to about C, the small ones too.

    A parameter that no loss depends on has a sum of zeros and is named in a warning; Opacus's
    engines refuse it. Raises `InputError` for an unknown engine, a C that is not above 0, losses
    that are not one a record, and a model that is in evaluation mode, has hooks on its gradients,
    is changed by its forward pass (see `workbench.training.engines.unchanged`) or cannot be treated
    by the engine, and `FloatingPointError` if a record's gradient is not finite.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine is {engine!r} but must be one of {', '.join(ENGINES)}; choose one."
        )
    positive("max_grad_norm", max_grad_norm, remedy="set the clipping norm")
    if not model.training:
        raise InputError("The model is in evaluation mode; call model.train() before clipping.")
    _refuse_hooks(model)
    module = import_module(f"workbench.training.engines.{engine}")
    factors = partial(clip_factors, max_grad_norm=max_grad_norm, normalised=normalised)
    clipped = module.clipped_gradient_sum(
        model, partial(_losses, model, engine, record_losses), factors=factors
    )
    _CALLS.setdefault(model, Counter())[engine] += 1
    return clipped


def _refuse_hooks(model: nn.Module) -> None:
    """An engine may pass by hooks on gradients, or they change the sum after it was clipped."""
    for name, parameter in model.named_parameters():
        hooks = parameter._backward_hooks or parameter._post_accumulate_grad_hooks
        if hooks and parameter.requires_grad:
            raise InputError(
                f"{name!r} has a hook on its gradient, which clipping would not see; remove the "
                "hook, and change the clipped sum instead."
            )


def _losses(model: nn.Module, engine: str, record_losses: RecordLosses) -> Tensor:
    with refusing_changes(model, values=costly_checks_are_due(model, engine)):
        losses = record_losses()
    if losses.ndim != 1:
        raise InputError(
            f"record_losses gave shape {tuple(losses.shape)} but must give one loss a record, "
            "(batch,); sum or average over tokens only."
        )
    return losses


def costly_checks_are_due(model: nn.Module, engine: str) -> bool:
    """At an engine's calls 1, 4, 16, 64 … on a model, so that they cost little in the long run."""
    return now_and_then(_CALLS.get(model, Counter[str]())[engine] + 1)


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
