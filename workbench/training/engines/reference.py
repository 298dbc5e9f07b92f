"""One record at a time: the definition of the clipped gradient sum, slow and plain.

Nothing here is clever, so that it can be the measure of every other engine in tests.
"""

import torch
from torch import nn

from workbench.training.clipping import ClippedSum, Factors, RecordLosses, trainable


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, factors: Factors
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; one backward pass for each record."""
    parameters = trainable(model)
    gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
    losses = record_losses()
    norms = torch.zeros_like(losses.detach())
    for index, loss in enumerate(losses):
        record = torch.autograd.grad(
            loss,
            list(parameters.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        norm = torch.sqrt(sum((g.square().sum() for g in record), torch.zeros_like(loss)))
        norms[index] = norm.detach()
        (weight,) = factors(norms[index : index + 1])
        for total, gradient in zip(gradients.values(), record, strict=True):
            total += weight * gradient
    return ClippedSum(gradients, norms)
