"""Clipped sums in one backward pass, at little more than the price of an ordinary one.

Each layer's weights are set aside while it runs, so that autograd carries gradients through it but
never forms the weights' own. When the gradient of a layer's output arrives, it and the layer's
input give every record's share of the norm, and later the clipped sum (Bu et al. 2023, arXiv
2210.00038). The layer's one weight-gradient product is thus done clipped instead of unclipped.

A parameter for which there is no such rule, or that is used outside of its layer, gets exact
gradients by a backward pass a record, for it alone: class tokens, attention sinks, recurrent
layers, fused experts. That is slower, and takes the memory of its gradient a record.

What cannot be told apart by record is refused by name, never guessed: calls 1, 4, 16, 64 … on a
model, and the first of a new kind, make one more backward pass to see that the loss of a record
reaches that record's rows alone. Where it turns out that all records share some rows, or that a
call was not tried out yet, ``record_losses`` is called again, with the same random numbers. Rows
that are shared must be made of no record, and repeating them for each must not change the losses.
A trial shows what mixed records in that batch; a model that reorders them by their content can pass
one by chance. Records that mix through detached values have no gradient that would show it.
Gradient checkpoints, reentrant or not, change nothing.

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

from torch import nn

from workbench.clipping.bookkeeping.habits import Habits
from workbench.clipping.bookkeeping.passes import Passes
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    RecordLosses,
    trainable,
    warn_of_unused,
)

_HABITS: WeakKeyDictionary[nn.Module, Habits] = WeakKeyDictionary()


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; what ``.grad`` holds stays as it is."""
    parameters = trainable(model)
    habits = _HABITS.setdefault(model, Habits())
    with _grads_kept(parameters.values()):
        book = Passes(model, record_losses, habits).book()
    habits.passes += 1
    if book.batch:
        warn_of_unused(name for name, p in parameters.items() if p not in book.uses)
    norms, highest = book.norms()
    weights = factors(highest)
    gradients = {name: book.weighted_sum(p, weights) for name, p in parameters.items()}
    return ClippedSum(gradients, norms, factors.max_grad_norm)


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
