"""Per-record gradients from Opacus: hooks on every layer keep them, one backward pass.

Opacus stores each record's whole gradient (batch × parameters numbers), takes their norms, and sums
them clipped. Tied weights are right here: Opacus adds up a parameter's uses before it hands out the
record's gradient. Position embeddings must see (batch, tokens) indices, see
`workbench.training.models.record_losses`.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import wide
from workbench.clipping.clipped_sum import ClippedSum, Factors, RecordLosses, trainable, zeros
from workbench.errors import InputError

Hooks = TypeVar("Hooks", bound=GradSampleHooks)
_WHO = "Opacus"


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; memory grows with batch × parameters."""
    parameters = trainable(model)
    refuse_padding_rows(model)
    with attached(GradSampleHooks, model), gradients_kept(parameters.values()):
        losses = record_losses()
        if not len(losses):
            return ClippedSum(zeros(parameters), wide(losses.detach()), factors.max_grad_norm)
        _refuse_other_rows(model, len(losses))
        refuse_other_uses(losses, parameters)
        losses.sum().backward()
        records = {name: _record_gradients(name, p) for name, p in parameters.items()}
    norms = torch.stack([_norms(g) for g in records.values()]).norm(dim=0)
    weights = factors(norms)
    gradients = {
        name: (weights @ g.flatten(1).to(weights.dtype)).view(g.shape[1:])
        for name, g in records.items()
    }
    return ClippedSum(gradients, norms, factors.max_grad_norm)


@contextmanager
def attached(hooks_of: type[Hooks], model: nn.Module) -> Iterator[Hooks]:
    """Opacus's hooks, on the model for one call only, so that evaluation never pays for them."""
    _expect_token_inputs()
    try:
        hooks = hooks_of(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise InputError(
            f"Opacus cannot clip this model: {' '.join(str(error).split())[:300]}; freeze the layer"
            " or choose another model."
        ) from None
    guards = [
        module.register_forward_pre_hook(partial(_refuse_arguments, name), with_kwargs=True)
        for name, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    try:
        yield hooks
    except RuntimeError as error:
        if "BackwardHookFunction" not in str(error):
            raise
        raise InputError(
            "Opacus cannot clip this model: it changes the output of a layer in place, or a view "
            "of it, which Opacus's hooks do not allow; choose engine='bookkeeping'."
        ) from error
    finally:
        for guard in guards:
            guard.remove()
        hooks.cleanup()
        # Opacus leaves these, and after an interrupted pass they hold that pass's records.
        for module in model.modules():
            for leftover in ("activations", "max_batch_len"):
                vars(module).pop(leftover, None)


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


def _refuse_other_rows(model: nn.Module, batch: int) -> None:
    """Refuse layers that were called on rows which are not the records.

    Opacus takes every first dimension for the records, also that of positions, which may be as many
    by chance.
    """
    for name, module in model.named_modules():
        for inputs in getattr(module, "activations", ()):
            if len(inputs[0]) != batch or (batch > 1 and inputs[0].ndim < 2):
                raise refusal(
                    name, f"it was called on {tuple(inputs[0].shape)}, not on {batch} records"
                )


def _refuse_arguments(
    name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse calls of which Opacus would keep the first argument alone, or nothing."""
    if kwargs or (len(args) != 1 and type(module) not in GradSampleHooks.GRAD_SAMPLERS):
        raise refusal(name, "of its call Opacus sees the first argument alone, and none by name")


def refuse_padding_rows(model: nn.Module, who: str = _WHO) -> None:
    """Refuse embeddings whose padding row has no gradient, which Opacus would count."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            if module.padding_idx is not None:
                raise refusal(f"{name}.weight", "its norm would count the padding row", who)
            if module.scale_grad_by_freq:
                reason = "scale_grad_by_freq mixes the records of a batch"
                raise refusal(f"{name}.weight", reason, who)


def refuse_other_uses(losses: Tensor, parameters: dict[str, nn.Parameter], who: str = _WHO) -> None:
    """Compare how often the graph of the losses uses each parameter with what the hooks saw."""
    used = _uses(losses)
    for name, parameter in parameters.items():
        if used[parameter] > getattr(parameter, "_forward_counter", 0):
            raise refusal(name, "it is used outside its layer's call, which the norm misses", who)


def _uses(losses: Tensor) -> Counter[Any]:
    """How many edges of the autograd graph lead to each leaf."""
    found = Counter[Any]()
    seen, waiting = set(), [losses.grad_fn]
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions if node else ():
            leaf = getattr(following, "variable", None)
            if leaf is not None:
                found[leaf] += 1
            elif following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


def refusal(name: str, reason: str, who: str = _WHO) -> InputError:
    """The error that names what cannot be clipped."""
    return InputError(f"{who} cannot clip {name!r}: {reason}; choose engine='bookkeeping'.")


def _expect_token_inputs() -> None:
    """Silence one torch warning, by its text: token ids carry no gradient and need none.

    The filter is put in place at every call, because whoever captures warnings drops it again;
    putting it twice is the same as once.
    """
    warnings.filterwarnings(
        "ignore", message="Full backward hook is firing when gradients are computed with respect to"
    )


def _record_gradients(name: str, parameter: nn.Parameter) -> Tensor:
    gradients = getattr(parameter, "grad_sample", None)
    if not isinstance(gradients, Tensor):
        raise InputError(
            f"Opacus found no per-record gradient for {name!r}; freeze that parameter "
            "(requires_grad_(False)) or choose another model."
        )
    return gradients


def _norms(gradients: Tensor) -> Tensor:
    """(batch,) of (batch, …), row by row: one long float32 sum would lose digits."""
    # bf16 gradients are exact here: only what is summed up needs the wider type.
    dtype = torch.promote_types(gradients.dtype, torch.float32)
    width = gradients.shape[-1] if gradients.ndim > 1 else 1
    rows = gradients.reshape(len(gradients), -1, width)
    return vector_norm(vector_norm(rows, dim=2, dtype=dtype), dim=1)
