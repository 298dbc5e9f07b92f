"""Ghost clipping from Opacus: a backward pass for the norms, another for the clipped sum.

The first pass leaves each record's norm on every parameter, without its gradient where the layer is
`nn.Linear` or `nn.Embedding`; the second is an ordinary one of the losses, each multiplied by its
factor (Li et al. 2022, arXiv 2110.05679, section 4). The factors come from the caller here, so that
no second clipping norm can disagree with the one the noise is calibrated to.

The second pass sees every use of a parameter, the first only what Opacus's hooks saw. Where the two
may differ the sum would not be clipped, so the model is refused by name: tied weights, layers
called twice, weights used past their layer's back. The hooks measure the second pass as well: what
is longer than C there, because the first was rounded otherwise, is scaled down and passed again.
What else may come between them, such as a hook on a tensor, shows where calls 1, 4, 16, 64 … on a
model form one record's gradient by itself; what it does to other records alone is not seen. What
rounding hides is bounded for the layers that Opacus knows, not for layers of one's own.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import Rows, wide
from workbench.clipping.calls import costly_checks_are_due, rows_are_due
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    RecordLosses,
    gradients_kept,
    norm_of,
    trainable,
    widest,
    zeros,
)
from workbench.clipping.opacus_hooks import (
    attached,
    outputs_kept,
    refusal,
    refuse_embeddings,
    refuse_other_uses,
    refuse_rows_in_disorder,
    refuse_unused,
)
from workbench.errors import InputError

_WHO = "Ghost clipping"
_ATTEMPTS, _MARGIN = 4, 0.7
_LEAST = 1e-18  # squares of what is smaller may vanish in float32


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; two backward passes through one forward."""
    parameters = trainable(model)
    _refuse_what_the_norms_miss(model)
    with (
        attached(_Hooks, model) as hooks,
        outputs_kept(model) as outputs,
        gradients_kept(parameters.values()),
        _contiguous_indices(model),
    ):
        try:
            losses = _losses(record_losses)
            if not len(losses):
                return ClippedSum(zeros(parameters), wide(losses.detach()), factors.max_grad_norm)
            refuse_unused(losses, parameters, _WHO)
            refuse_other_uses(losses, parameters, _WHO)
            due = rows_are_due(model, "ghost", losses)
            refuse_rows_in_disorder(hooks, losses, outputs, due=due, who=_WHO)
            norms = hooks.norms(losses, parameters)
            weights = factors(norms)
            if costly_checks_are_due(model, "ghost"):
                hooks.disable_hooks()
                _refuse_another_length(losses, norms, weights, parameters)
                hooks.enable_hooks()
            for _ in range(_ATTEMPTS):
                added = hooks.norms(losses * weights, parameters)
                short_enough = added <= factors.max_grad_norm * (1 + 1e-6)
                if bool(short_enough.all()):
                    break
                # Such a gradient is all but rounding, and another one with every factor.
                lowered = weights * _MARGIN * factors.max_grad_norm / added
                weights = torch.where(short_enough, weights, lowered)
            else:
                raise _not_as_long()
        finally:
            for parameter in parameters.values():
                vars(parameter).pop("_norm_sample", None)
        gradients = {name: _gradient(p) for name, p in parameters.items()}
    return ClippedSum(gradients, norms, factors.max_grad_norm)


class _Hooks(GradSampleHooksFastGradientClipping):
    """Opacus's hooks, which may be asked more than once, with norms that are never too small.

    The Gram form of a norm cancels where positions do, and so does the sum that the backward pass
    forms. The norms of linear layers and embeddings are taken in float64, and to every layer's is
    added what the rounding of sums can hide.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: list[tuple[nn.Module, list[Tensor]]] = []

    def norms(self, losses: Tensor, parameters: dict[str, nn.Parameter]) -> Tensor:
        """Each record's norm (batch,) from a backward pass, whose sum is left in ``.grad``."""
        for parameter in parameters.values():
            parameter.grad = None
        losses.sum().backward(retain_graph=True)
        norms = [_norms(name, p, losses) for name, p in parameters.items()]
        for module, activations in reversed(self._seen):
            vars(module).setdefault("activations", []).append(activations)
            for parameter in trainable(module).values():
                parameter._forward_counter += 1  # type: ignore[attr-defined]
        self._seen.clear()
        wide_norms = torch.stack([n.to(widest(n.device)) for n in norms]).norm(dim=0)
        return wide_norms.to(wide(losses.detach()).dtype)

    def capture_backprops_hook(
        self,
        module: nn.Module,
        _forward_input: Any,
        forward_output: Any,
        loss_reduction: str,
        batch_first: bool,
    ) -> None:
        """As Opacus does it, with the norms corrected; what is used up is noted to be put back."""
        if not self.hooks_enabled:
            return
        activations: list[Tensor] = module.activations[-1]  # type: ignore[index, assignment]
        super().capture_backprops_hook(
            module, _forward_input, forward_output, loss_reduction, batch_first
        )
        self._seen.append((module, activations))
        gradient = forward_output[0].detach()
        for name, parameter in trainable(module).items():
            told = getattr(parameter, "_norm_sample", None)
            # What is told in a narrow type is refused, and rounding up would hide it.
            if told is not None and len(told) == len(gradient) and told.itemsize >= 4:
                told = _norms_in_float64(module, name, activations[0], gradient, told)
                hidden = _hidden_by_rounding(module, name, activations[0], gradient)
                parameter._norm_sample = told + hidden  # type: ignore[attr-defined]


def _norms_in_float64(
    module: nn.Module, name: str, x: Tensor, gradient: Tensor, told: Tensor
) -> Tensor:
    """Norms (batch,) of what Opacus squares and sums in float32, others as they were told."""
    wide_gradient = gradient.to(widest(gradient.device))
    positions = wide_gradient.flatten(1, -2) if gradient.ndim > 2 else wide_gradient[:, None]
    if type(module) is nn.Linear and name == "weight":
        return _linear_norms(x, gradient)
    if type(module) is nn.Linear and name == "bias":
        return vector_norm(positions.sum(1), dim=1)
    if type(module) is nn.Embedding:
        return Rows(x.flatten(1), positions, len(module.weight)).merged().squared_norms().sqrt()
    return told


def _linear_norms(x: Tensor, gradient: Tensor) -> Tensor:
    """Norms of Σₜ gₜxₜᵀ, (batch,), in float64 and rounded up."""
    x, gradient = (t.flatten(1, -2) if t.ndim > 2 else t[:, None] for t in (x, gradient))
    x, gradient = x.to(widest(x.device)), gradient.to(widest(x.device))
    squares = ((x @ x.mT) * (gradient @ gradient.mT)).sum((1, 2)).clamp(min=0)
    rounding = _roundings(gradient) * torch.finfo(x.dtype).eps
    sizes = vector_norm(x, dim=(1, 2)) * vector_norm(gradient, dim=(1, 2))
    return (squares + rounding * sizes.square()).sqrt()


def _hidden_by_rounding(module: nn.Module, name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """What a sum over positions may be off by in any computation, (batch,).

    A few units in the last place of Σₜ‖gₜ‖‖xₜ‖, which is at most ‖g‖‖x‖. A bias and a table have
    1 in the place of x, and what a normalisation makes of x is about 1 in every number.
    """
    sizes = vector_norm(gradient.flatten(1), dim=1, dtype=widest(gradient.device))
    positions = gradient[0].numel() // gradient.shape[-1]
    if name == "bias" or isinstance(module, nn.Embedding):
        factors = torch.full_like(sizes, positions**0.5)
    else:
        factors = vector_norm(x.flatten(1), dim=1, dtype=sizes.dtype)
        if type(module) is not nn.Linear:
            factors = factors.clamp(min=x[0].numel() ** 0.5)
    return _roundings(gradient) * torch.finfo(gradient.dtype).eps * sizes * factors + _LEAST


def _roundings(gradient: Tensor) -> float:
    """How many roundings may add up, where those of a long sum mostly cancel."""
    return 8 + 2 * (gradient[0].numel() / gradient.shape[-1]) ** 0.5


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
    refuse_embeddings(model, _WHO)


def _refuse_another_length(
    losses: Tensor, norms: Tensor, weights: Tensor, parameters: dict[str, nn.Parameter]
) -> None:
    """See that the longest gradient is no longer, weighted, than the first pass says."""
    chosen = weights * (torch.arange(len(losses), device=norms.device) == norms.argmax())
    found = torch.autograd.grad(
        (losses * chosen).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    # Rounding in float32 stays far below a thousandth; the norm may have been rounded up by more.
    length = norm_of((g for g in found if g is not None), norms.dtype)
    if not bool(length <= (norms * chosen).sum() * (1 + 1e-3) + _LEAST):
        raise _not_as_long()


def _not_as_long() -> InputError:
    return InputError(
        "Ghost clipping cannot clip this model: a record's gradient is not as long as its norm "
        "says, as where a hook changes it on its way; choose engine='reference'."
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
