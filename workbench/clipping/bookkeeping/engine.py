"""Clipped sums in one backward pass, at little more than the price of an ordinary one.

Each layer's weights are set aside while it runs, so that autograd carries gradients through it but
never forms the weights' own. When the gradient of a layer's output arrives, it and the layer's
input give every record's share of the norm, and later the clipped sum (Bu et al. 2023, arXiv
2210.00038). The layer's one weight-gradient product is thus done clipped instead of unclipped.

What cannot be told apart by record is refused by name, never guessed: calls 1, 4, 16, 64 … on a
model, and the first of a new kind, make one more backward pass to see that the loss of a record
reaches that record's rows alone. Where it turns out that all records share some rows, or that a
call was not tried out yet, ``record_losses`` is called again. A trial shows what mixed records in
that batch; a model that reorders them by their content can pass one by chance. Records that mix
through detached values have no gradient that would show it.

An Opacus user's own loop, with ``record_losses(model, batch)`` of shape (batch,):

>>> import torch
>>> from workbench.training import clipped_gradient_sum
>>> model, batch = torch.nn.Linear(4, 2), torch.randn(8, 4)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> def record_losses(model, batch):
...     return model(batch).square().sum(1) if len(batch) else torch.zeros(0)

>>> clipped = clipped_gradient_sum(
...     model, lambda: record_losses(model, batch), max_grad_norm=1.0, engine="bookkeeping"
... )
>>> for name, parameter in model.named_parameters():  # σ = 0.8, C = 1, expected batch size 8
...     noise = torch.normal(0.0, 0.8 * 1.0, parameter.shape)
...     parameter.grad = (clipped.gradients[name] + noise) / 8
>>> optimizer.step()  # also after an empty batch, which is a step of noise alone and counts
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from workbench.clipping.bookkeeping.contributions import (
    Outer,
    Rows,
    Use,
    inner_products,
    joined,
    wide,
)
from workbench.clipping.bookkeeping.recorder import NOT_RECORDS, Habits, Recorder, Tap, layers_of
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    RecordLosses,
    trainable,
    warn_of_unused,
)
from workbench.errors import InputError

_HABITS: WeakKeyDictionary[nn.Module, Habits] = WeakKeyDictionary()


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; what ``.grad`` holds stays as it is."""
    parameters = trainable(model)
    habits = _HABITS.setdefault(model, Habits())
    with _grads_kept(parameters.values()):
        book = _record(model, record_losses, habits)
        strays = [name for name, p in parameters.items() if p.grad is not None]
    if strays:
        raise InputError(
            f"The book-keeping engine cannot clip {strays[0]!r}: it is used outside the forward of "
            "the layer that owns it; freeze it or choose engine='reference'."
        )
    habits.passes += 1
    if book.batch:
        warn_of_unused(name for name, p in parameters.items() if p not in book.uses)
    norms = book.norms()
    weights = factors(norms)
    gradients = {name: book.weighted_sum(p, weights) for name, p in parameters.items()}
    return ClippedSum(gradients, norms, factors.max_grad_norm)


class _Book:
    """Every use of every parameter."""

    def __init__(self, losses: Tensor) -> None:
        self.batch = len(losses)
        self.uses: dict[nn.Parameter, list[Use]] = {}
        self._none = torch.zeros_like(wide(losses.detach()))

    def add(self, parameter: nn.Parameter, use: Use) -> None:
        """Enter one use, made one with earlier ones where that can be."""
        apart = []
        for earlier in self.uses.get(parameter, []):
            both = joined(earlier, use)
            if both is None:
                apart.append(earlier)
            else:
                use = both
        self.uses[parameter] = [*apart, use]

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Each record's gradient norm over all parameters: ‖A + B‖² = ‖A‖² + ‖B‖² + 2⟨A, B⟩."""
        squares = [self._none]
        for uses in self.uses.values():
            squares += [use.squared_norms() for use in uses]
            match uses:
                case [Outer() as outer, Rows() as rows] | [Rows() as rows, Outer() as outer]:
                    squares.append(2 * inner_products(outer, rows))
        return torch.stack(squares).sum(0).clamp_(min=0).sqrt_()

    @torch.no_grad()
    def weighted_sum(self, parameter: nn.Parameter, factors: Tensor) -> Tensor:
        """Σᵢ cᵢ·gᵢ for this parameter, whose uses are forgotten."""
        parts = [use.weighted_sum(factors) for use in self.uses.pop(parameter, [])]
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(wide(parameter.detach()))


def _record(model: nn.Module, record_losses: RecordLosses, habits: Habits) -> _Book:
    """Run forward and backward once, or again as long as that shows what all records share."""
    layers = layers_of(model)
    batch, try_out = None, False
    while True:
        with Recorder(layers, habits, batch) as recorder:
            losses = _losses(record_losses, recorder)
            book = _Book(losses)
            if not book.batch or not losses.requires_grad:
                return book
            recorder.batch = book.batch
            uneven = recorder.uneven()
            try_out |= habits.trial_is_due(book.batch) or (not uneven and recorder.untried())
            trial = recorder.trial(losses) if try_out and not uneven else None
            strangers = uneven or recorder.backward(losses, book.add, trial)
            if not strangers:
                return book
        if uneven or trial:
            _share(habits, strangers, repeated=batch is not None)
        batch, try_out = book.batch, True


def _losses(record_losses: RecordLosses, recorder: Recorder) -> Tensor:
    """The losses; a model that does not take rows for each record where all share them is named."""
    try:
        return record_losses()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if recorder.repeated is None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise recorder.repeated.refusal(
            f"all records share its output, and the model fails where each gets its own: {reason}"
        ) from error


def _share(habits: Habits, strangers: list[Tap], *, repeated: bool) -> None:
    """Note which of these calls all records share; refuse the first if that explains none of them.

    ``repeated`` says that the calls already known as shared were repeated for every record.
    """
    shared = {tap.signature for tap in strangers if tap.can_be_shared}
    if not shared or (repeated and shared <= habits.shared):
        raise strangers[0].layer.refusal(NOT_RECORDS)
    habits.shared |= shared


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
