"""The clipped gradient sum: what DP-SGD adds noise to.

Every record's gradient gᵢ, over all trainable parameters together, is scaled to norm at most C, and
the scaled gradients are summed: Σᵢ gᵢ·min(1, C/‖gᵢ‖₂) (Abadi et al. 2016, arXiv 1607.00133,
algorithm 1), or Σᵢ gᵢ·C/(‖gᵢ‖₂ + γ) where it is normalised (Bu et al. 2022, arXiv 2206.07136).
Adding or removing one record then moves the sum by at most C, and on that alone the noise is
calibrated.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from workbench.clipping import calls
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    OtherRowsError,
    RecordLosses,
    trainable,
)
from workbench.clipping.isolation_probe import probe_is_due, refuse_mixing
from workbench.clipping.mutation_guard import refusing_changes
from workbench.errors import InputError, positive

ENGINES = ("bookkeeping", "ghost", "hooks", "reference")


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

    What happens at the edges:

    ==============================  ==============================================================
    an empty batch                  zeros, of the parameters' shapes; ``norms`` of shape (0,)
    a gradient of zero              adds nothing and is not divided by zero
    a record that is not finite     `FloatingPointError`: nothing is released
    an unused parameter             zeros and a warning that names it; Opacus's engines refuse it
    losses of no parameter          the same
    a tied parameter                counted with all its uses, told once; ``ghost`` refuses it
    a frozen parameter              neither in the norm nor in the sum
    a frozen model                  refused
    losses that mix records         refused, as far as calls 1, 4, 16, 64 … see it
    losses not one a record         refused
    evaluation mode                 refused: dropout and statistics would not be those of training
    a single record                 clipped like any other; what it might mix cannot be seen
    a model changed on the way      refused, see `workbench.clipping.mutation_guard`
    hooks on gradients              refused, they would change what was clipped
    a model wrapped by Opacus       refused; ``to_standard_module()`` gives the model back
    gradients that cancel           at most C(1 + 10⁻⁶) in floating point
    C of 0, below, or not finite    refused
    ==============================  ==============================================================

    The probe that sees mixed records calls ``record_losses`` several times with other data; see
    `workbench.clipping.isolation_probe`. Raises `InputError` wherever something is refused.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine is {engine!r} but must be one of {', '.join(ENGINES)}; choose one."
        )
    positive("max_grad_norm", max_grad_norm, remedy="set the clipping norm")
    if not model.training:
        raise InputError("The model is in evaluation mode; call model.train() before clipping.")
    if not trainable(model):
        raise InputError(
            "The model has no trainable parameter; call requires_grad_() on what is to be trained."
        )
    _refuse_modules(model)
    _refuse_hooks(model)
    factors = Factors(max_grad_norm, normalised)
    # The book-keeping engine looks at gradients by itself.
    probe = partial(refuse_mixing, model, record_losses, gradients=engine != "bookkeeping")
    try:
        clipped = _engine(engine)(
            model, partial(_losses, model, engine, record_losses), factors=factors
        )
    except OtherRowsError:
        probe(call=0)  # the truer reason, where it is one
        raise
    call, batch = calls.number_of(model, engine), len(clipped.norms)
    if probe_is_due(model, batch, call=call):
        probe(call=call, batch=batch)
    calls.count(model, engine)
    return clipped


def _engine(name: str) -> Callable[..., ClippedSum]:
    """The engine's own function; Opacus loads only if it is asked for."""
    match name:
        case "bookkeeping":
            from workbench.clipping.bookkeeping import engine as module
        case "ghost":
            from workbench.clipping import opacus_ghost as module
        case "hooks":
            from workbench.clipping import opacus_hooks as module
        case _:
            from workbench.clipping import reference as module
    return module.clipped_gradient_sum


def _refuse_modules(model: nn.Module) -> None:
    """What no engine can treat, whatever the losses."""
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._backward_hooks.values())
        owners = [module, *(getattr(hook, "__self__", None) for hook in hooks)]
        if any(_is_of_opacus(owner) for owner in owners):
            raise InputError(
                "The model has hooks of Opacus (GradSampleModule), which would run beside the "
                "engine's; pass what the wrapped model's to_standard_module() gives."
            )
        frequency = isinstance(module, nn.Embedding) and module.scale_grad_by_freq
        if frequency and module.weight.requires_grad:
            raise InputError(
                f"{name!r} cannot be clipped: scale_grad_by_freq mixes the records of a batch; set "
                "it to False."
            )


def _is_of_opacus(owner: object) -> bool:
    return any(kind.__module__.startswith("opacus.grad_sample") for kind in type(owner).__mro__)


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
    with refusing_changes(model, values=calls.costly_checks_are_due(model, engine)):
        losses = record_losses()
    if losses.ndim != 1:
        raise InputError(
            f"record_losses gave shape {tuple(losses.shape)} but must give one loss a record, "
            "(batch,); sum or average over tokens only."
        )
    return losses
