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
from traceback import walk_tb
from typing import Any, TypeVar

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
from torch import Tensor, nn
from torch.linalg import vector_norm

from workbench.clipping.bookkeeping.contributions import wide
from workbench.clipping.calls import rows_are_due
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    OtherRowsError,
    RecordLosses,
    gradients_kept,
    norm_of,
    trainable,
    zeros,
)
from workbench.errors import InputError

Hooks = TypeVar("Hooks", bound=GradSampleHooks)
Outputs = list[tuple[str, Tensor]]  # by the layer's name
_WHO = "Opacus"


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; memory grows with batch × parameters."""
    parameters = trainable(model)
    refuse_embeddings(model)
    with (
        attached(GradSampleHooks, model) as hooks,
        outputs_kept(model) as outputs,
        gradients_kept(parameters.values()),
    ):
        losses = record_losses()
        if not len(losses):
            return ClippedSum(zeros(parameters), wide(losses.detach()), factors.max_grad_norm)
        _refuse_other_rows(model, len(losses))
        refuse_unused(losses, parameters)
        refuse_other_uses(losses, parameters)
        refuse_rows_in_disorder(hooks, losses, outputs, due=rows_are_due(model, "hooks", losses))
        losses.sum().backward()
        records = {name: _record_gradients(name, p) for name, p in parameters.items()}
    norms = _norms(records.values(), wide(losses.detach()))
    weights = factors(norms)
    gradients = {
        name: (weights @ g.reshape(len(g), -1).to(weights.dtype)).view(g.shape[1:])
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
    except InputError:
        raise
    except Exception as error:
        if "BackwardHookFunction" in str(error):
            raise InputError(
                "Opacus cannot clip this model: it changes the output of a layer in place, or a "
                "view of it, which Opacus's hooks do not allow; choose engine='bookkeeping'."
            ) from error
        if isinstance(error, torch.OutOfMemoryError) or not _comes_from_opacus(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"Opacus cannot clip this model: its own code for one of the layers ends in a "
            f"{type(error).__name__} ({reason}); choose engine='reference'."
        ) from error
    finally:
        for guard in guards:
            guard.remove()
        hooks.cleanup()
        # Opacus leaves these, and after an interrupted pass they hold that pass's records.
        for module in model.modules():
            for leftover in ("activations", "max_batch_len"):
                vars(module).pop(leftover, None)


def _comes_from_opacus(error: BaseException) -> bool:
    frames = (frame.f_globals for frame, _ in walk_tb(error.__traceback__))
    return any(names.get("__name__", "").startswith("opacus.") for names in frames)


@contextmanager
def outputs_kept(model: nn.Module) -> Iterator[Outputs]:
    """The outputs of all layers with trainable parameters, as they are made."""
    outputs: Outputs = []

    def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.append((name, output))

    keepers = [
        module.register_forward_hook(partial(keep, name))
        for name, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    try:
        yield outputs
    finally:
        for keeper in keepers:
            keeper.remove()
        outputs.clear()


def refuse_rows_in_disorder(
    hooks: GradSampleHooks | GradSampleHooksFastGradientClipping,
    losses: Tensor,
    outputs: Outputs,
    *,
    due: bool,
    who: str = _WHO,
) -> None:
    """Refuse layers of as many rows as there are records, where row i is not record i's.

    Each loss is multiplied by a power of two of its own, and a record's row must have its gradient
    multiplied by just that. This is done where it is ``due``, and whenever another dimension is as
    long as the batch: positions may then stand where records are expected.
    """
    batch = len(losses)
    taps = [(name, out) for name, out in outputs if len(out) == batch]
    doubtful = due or any(batch in out.shape[1:-1] for _, out in taps)
    if batch < 2 or not taps or not doubtful or not losses.requires_grad:
        return
    powers = torch.randperm(batch, generator=torch.Generator().manual_seed(batch)) % 8
    weights = torch.exp2(powers.to(losses))
    hooks.disable_hooks()
    plain, weighted = (
        torch.autograd.grad(total, [out for _, out in taps], retain_graph=True, allow_unused=True)
        for total in (losses.sum(), (losses * weights).sum())
    )
    hooks.enable_hooks()
    for (name, _), one, other in zip(taps, plain, weighted, strict=True):
        if one is not None and other is not None and not _rows_are_weighted(one, other, weights):
            reason = "the gradients of its rows are not those of the records' losses"
            raise OtherRowsError(str(refusal(name, reason, who, remedy="reference")))


def _rows_are_weighted(plain: Tensor, weighted: Tensor, weights: Tensor) -> bool:
    """Whether each row of ``weighted`` is that of ``plain`` times its weight, but for rounding."""
    if not (plain.isfinite().all() and weighted.isfinite().all()):
        return True  # the norms will tell
    smallest = torch.finfo(plain.dtype).smallest_normal * 2**-8 * plain[0].numel() ** 0.5
    wide = torch.promote_types(plain.dtype, torch.float32)
    expected = plain.flatten(1).to(wide) * weights.to(wide)[:, None]
    off = vector_norm(weighted.flatten(1).to(wide) - expected, dim=1)
    return bool((off <= 1e-5 * vector_norm(expected, dim=1) + smallest).all())


def _refuse_other_rows(model: nn.Module, batch: int) -> None:
    """Refuse layers that were called on rows which are not the records.

    Opacus takes every first dimension for the records, also that of positions, which may be as many
    by chance.
    """
    for name, module in model.named_modules():
        for inputs in getattr(module, "activations", ()):
            if len(inputs[0]) != batch or (batch > 1 and inputs[0].ndim < 2):
                reason = f"it was called on {tuple(inputs[0].shape)}, not on {batch} records"
                raise refusal(name, reason, remedy="reference")


def _refuse_arguments(
    name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse calls of which Opacus would keep the first argument alone, or nothing."""
    if kwargs or (len(args) != 1 and type(module) not in GradSampleHooks.GRAD_SAMPLERS):
        raise refusal(name, "of its call Opacus sees the first argument alone, and none by name")


def refuse_embeddings(model: nn.Module, who: str = _WHO) -> None:
    """Refuse embeddings with a padding row, whose gradient Opacus would count, and sparse ones."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            if module.padding_idx is not None:
                raise refusal(f"{name}.weight", "its norm would count the padding row", who)
            if module.sparse:
                raise refusal(f"{name}.weight", "its gradient is sparse", who)


def refuse_unused(losses: Tensor, parameters: dict[str, nn.Parameter], who: str = _WHO) -> None:
    """Refuse losses without a gradient, of which Opacus's hooks see nothing."""
    if not losses.requires_grad:
        raise refusal(next(iter(parameters)), "no loss depends on it", who)


def refuse_other_uses(losses: Tensor, parameters: dict[str, nn.Parameter], who: str = _WHO) -> None:
    """Compare how often the graph of the losses uses each parameter with what the hooks saw."""
    used = _uses(losses)
    for name, parameter in parameters.items():
        if used[parameter] > getattr(parameter, "_forward_counter", 0):
            reason = "it is used outside its layer's call, which the norm misses"
            raise refusal(name, reason, who, remedy="reference")


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


def refusal(name: str, reason: str, who: str = _WHO, *, remedy: str = "bookkeeping") -> InputError:
    """The error that names what cannot be clipped, and an engine that can."""
    return InputError(f"{who} cannot clip {name!r}: {reason}; choose engine={remedy!r}.")


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


def _norms(gradients: Iterable[Tensor], like: Tensor) -> Tensor:
    """Each record's norm over all parameters (batch,), from gradients (batch, …)."""
    records = zip(*(g.unbind() for g in gradients), strict=True)
    return torch.stack([norm_of(record, like.dtype) for record in records])
