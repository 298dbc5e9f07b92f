"""Ghost clipping from Opacus: a backward pass for the norms, another for the clipped sum.

The first pass leaves each record's norm on every parameter, without its gradient where the layer is
`nn.Linear` or `nn.Embedding`; the second is an ordinary one of the losses, each multiplied by its
factor (Li et al. 2022, arXiv 2110.05679, section 4). The factors come from the caller here, so that
no second clipping norm can disagree with the one the noise is calibrated to.

The second pass sees every use of a parameter, the first only what Opacus's hooks saw. Where the two
may differ the sum would not be clipped, so the model is refused by name: tied weights, layers
called twice, weights used past their layer's back. What else may come between them, such as a hook
on a tensor, shows where calls 1, 4, 16, 64 … on a model form one record's gradient by itself; what
it does to other records alone is not seen.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor, nn

from workbench.clipping.bookkeeping.contributions import wide
from workbench.clipping.clipped_sum import ClippedSum, Factors, RecordLosses, trainable, zeros
from workbench.clipping.gradient_sum import costly_checks_are_due
from workbench.clipping.opacus_hooks import (
    attached,
    gradients_kept,
    refusal,
    refuse_other_uses,
    refuse_padding_rows,
)
from workbench.errors import InputError

_WHO = "Ghost clipping"


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; two backward passes through one forward."""
    parameters = trainable(model)
    _refuse_what_the_norms_miss(model)
    with (
        attached(GradSampleHooksFastGradientClipping, model) as hooks,
        gradients_kept(parameters.values()),
        _contiguous_indices(model),
    ):
        try:
            losses = _losses(record_losses)
            if not len(losses):
                return ClippedSum(zeros(parameters), wide(losses.detach()), factors.max_grad_norm)
            refuse_other_uses(losses, parameters, _WHO)
            losses.sum().backward(retain_graph=True)
            norms = torch.stack([_norms(name, p, losses) for name, p in parameters.items()])
        finally:
            for parameter in parameters.values():
                vars(parameter).pop("_norm_sample", None)
        norms = norms.norm(dim=0)
        hooks.disable_hooks()
        for parameter in parameters.values():
            parameter.grad = None  # the first pass formed the unclipped sum there
        weights = factors(norms)
        if costly_checks_are_due(model, "ghost"):
            _refuse_another_length(losses, norms, weights, parameters)
        (losses * weights).sum().backward()
        gradients = {name: _gradient(p) for name, p in parameters.items()}
    return ClippedSum(gradients, norms, factors.max_grad_norm)


@contextmanager
def _contiguous_indices(model: nn.Module) -> Iterator[None]:
    """Give embeddings copies of sliced or expanded indices, which Opacus cannot reshape."""
    hooks = [
        module.register_forward_pre_hook(lambda _, args: tuple(a.contiguous() for a in args))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _losses(record_losses: RecordLosses) -> Tensor:
    try:
        return record_losses()
    except NotImplementedError as error:
        raise InputError(
            f"Ghost clipping cannot clip this model: a layer is called twice ({error}); choose "
            "engine='bookkeeping'."
        ) from None


def _refuse_what_the_norms_miss(model: nn.Module) -> None:
    owners = Counter(
        parameter
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None and parameter.requires_grad
    )
    for name, parameter in trainable(model).items():
        if owners[parameter] > 1:
            raise _refusal(name, "it is tied, and the norm would leave out the cross term")
    refuse_padding_rows(model, _WHO)


def _refuse_another_length(
    losses: Tensor, norms: Tensor, weights: Tensor, parameters: dict[str, nn.Parameter]
) -> None:
    """See that the longest gradient is as long, weighted, as the first pass says."""
    chosen = weights * (torch.arange(len(losses), device=norms.device) == norms.argmax())
    found = torch.autograd.grad(
        (losses * chosen).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    # Rounding in float32 stays far below a thousandth, also where norms are summed by layer.
    length = nn.utils.get_total_norm([g for g in found if g is not None])
    if not torch.allclose(length, (norms * chosen).sum().to(length.dtype), rtol=1e-3, atol=1e-6):
        raise InputError(
            "Ghost clipping cannot clip this model: a record's gradient is not as long as its norm "
            "says, as where a hook changes it on its way; choose engine='bookkeeping'."
        )


def _norms(name: str, parameter: nn.Parameter, losses: Tensor) -> Tensor:
    norms = getattr(parameter, "_norm_sample", None)
    if norms is None or norms.shape != losses.shape:
        raise _refusal(name, "Opacus found no norm a record for it")
    if torch.finfo(norms.dtype).bits < 32:
        raise _refusal(name, f"Opacus takes its norm in {norms.dtype}, too coarse to bound it")
    return norms


def _gradient(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))


def _refusal(name: str, reason: str) -> InputError:
    return refusal(name, reason, _WHO)
