"""Clipped sums in one backward pass, at little more than the price of an ordinary one.

Each layer's weights are set aside while it runs, so that autograd carries gradients through it but
never forms the weights' own. When the gradient of a layer's output arrives, it and the layer's
input give every record's share of the norm, and later the clipped sum (Bu et al. 2023, arXiv
2210.00038). The layer's one weight-gradient product is thus done clipped instead of unclipped.

What cannot be told apart by record is refused by name, never guessed: the first call on a model
makes one more backward pass to see that the loss of a record reaches that record's rows alone.

An Opacus user's own loop, with ``record_losses(model, batch)`` of shape (batch,):

>>> import torch
>>> from workbench.training import clipped_gradient_sum
>>> model, batch = torch.nn.Linear(4, 2), torch.randn(8, 4)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> def record_losses(model, batch):
...     return model(batch).square().sum(1)

>>> clipped = clipped_gradient_sum(
...     model, lambda: record_losses(model, batch), max_grad_norm=1.0, engine="bookkeeping"
... )
>>> for name, parameter in model.named_parameters():  # σ = 0.8, C = 1, expected batch size 8
...     noise = torch.normal(0.0, 0.8 * 1.0, parameter.shape)
...     parameter.grad = (clipped.gradients[name] + noise) / 8
>>> optimizer.step()
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.errors import InputError
from workbench.training.clipping import ClippedSum, RecordLosses, clip_factors, trainable
from workbench.training.engines.recorder import Habits, Recorder, Tap
from workbench.training.engines.uses import Use, inner_products, wide

_HABITS: WeakKeyDictionary[nn.Module, Habits] = WeakKeyDictionary()


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, max_grad_norm: float
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; one backward pass.

    A parameter that no record's loss depends on has a sum of zeros and is named in a warning.
    What ``.grad`` holds stays as it is.
    """
    if not model.training:
        raise InputError("The model is in evaluation mode; call model.train() before clipping.")
    _refuse_batch_statistics(model)
    parameters = trainable(model)
    with _grads_kept(parameters.values()):
        book = _record(model, record_losses)
        strays = [name for name, p in parameters.items() if p.grad is not None]
    if strays:
        raise InputError(
            f"The book-keeping engine cannot clip {strays[0]!r}: it is used outside the forward of "
            "the layer that owns it; freeze it or choose engine='reference'."
        )
    unused = [name for name, p in parameters.items() if p not in book.uses]
    if unused and book.batch:
        text = f"No loss depends on {', '.join(unused)}: the clipped sum is zero there."
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    norms = book.squared_norms.clamp(min=0).sqrt()
    factors = clip_factors(norms, max_grad_norm)
    gradients = {name: book.weighted_sum(p, factors) for name, p in parameters.items()}
    return ClippedSum(gradients, norms)


class _Book:
    """Every use of every parameter, and the squared norm of each record's gradient over all."""

    def __init__(self, losses: Tensor) -> None:
        self.batch = len(losses)
        self.squared_norms = torch.zeros_like(wide(losses.detach()))
        self.uses: dict[nn.Parameter, list[Use]] = {}

    def add(self, parameter: nn.Parameter, use: Use) -> None:
        """Enter one use, with the cross terms to earlier ones: ‖A + B‖² = ‖A‖² + ‖B‖² + 2⟨A, B⟩."""
        uses = self.uses.setdefault(parameter, [])
        self.squared_norms += use.squared_norms()
        for earlier in uses:
            self.squared_norms += 2 * inner_products(use, earlier)
        uses.append(use)

    @torch.no_grad()
    def weighted_sum(self, parameter: nn.Parameter, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·gᵢ for this parameter, whose uses are forgotten."""
        parts = [use.weighted_sum(factors) for use in self.uses.pop(parameter, [])]
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(wide(parameter.detach()))


def _record(model: nn.Module, record_losses: RecordLosses) -> _Book:
    """Run forward and backward once, or again as long as that shows what all records share."""
    habits = _HABITS.setdefault(model, Habits())
    batch = None
    while True:
        with Recorder(model, habits, batch) as recorder:
            losses = record_losses()
            if losses.ndim != 1:
                raise InputError(
                    f"record_losses gave shape {tuple(losses.shape)} but must give one loss a "
                    "record, (batch,); sum or average over tokens only."
                )
            book = _Book(losses)
            if not book.batch or not losses.requires_grad:
                return book
            strangers = recorder.strangers(losses)
            if not strangers:
                recorder.backward(losses, book.add)
                return book
        _share(habits, strangers, tried=batch is not None)
        batch = book.batch


def _share(habits: Habits, strangers: list[Tap], *, tried: bool) -> None:
    """Note which of these calls all records share; refuse the first if that explains none of them.

    ``tried`` says that the calls already known as shared were repeated for every record.
    """
    shared = {tap.signature for tap in strangers if tap.can_be_shared}
    if not shared or (tried and shared <= habits.shared):
        raise strangers[0].layer.refusal(
            "its rows are not one record's each, or a record's loss depends on other records"
        )
    habits.shared |= shared


def _refuse_batch_statistics(model: nn.Module) -> None:
    """Name the layer that mixes records; the trial pass would see it too, but blame a neighbour."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise InputError(
                f"The book-keeping engine cannot clip through {name!r} "
                f"({type(module).__name__}): it mixes the records of a batch; replace it by a "
                "group or layer normalisation."
            )


@contextmanager
def _grads_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Start without gradients, so that a new one is seen, and put the old ones back."""
    kept = [(p, p.grad) for p in parameters]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
