"""One record at a time: the definition of the clipped gradient sum, slow and plain.

Nothing here is clever, so that it can be the measure of every other engine in tests.
"""

import torch
from torch import nn

from workbench.clipping.bookkeeping.contributions import wide
from workbench.clipping.clipped_sum import (
    ClippedSum,
    Factors,
    RecordLosses,
    trainable,
    warn_of_unused,
    zeros,
)


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; one backward pass for each record."""
    parameters = trainable(model)
    gradients = zeros(parameters)
    losses = record_losses()
    norms = torch.zeros_like(wide(losses.detach()))
    unused = set(parameters)
    for index, loss in enumerate(losses):
        record = torch.autograd.grad(
            loss,
            list(parameters.values()),
            retain_graph=True,
            allow_unused=True,
        )
        own = {name: wide(g) for name, g in zip(parameters, record, strict=True) if g is not None}
        squares = (g.square().sum() for g in own.values())
        norms[index] = torch.sqrt(sum(squares, torch.zeros_like(norms[index])))
        (weight,) = factors(norms[index : index + 1])
        for name, gradient in own.items():
            gradients[name] += weight * gradient
        unused -= own.keys()
    if len(losses):
        warn_of_unused(name for name in parameters if name in unused)
    return ClippedSum(gradients, norms, factors.max_grad_norm)
