"""One record at a time: the definition of the clipped gradient sum, slow and plain.

Nothing here is clever, so that it can be the measure of every other engine in tests.
"""

import torch
from torch import nn

from workbench.training.clipping import ClippedSum, RecordLosses, clip_factors, trainable


def clipped_gradient_sum(
    model: nn.Module, record_losses: RecordLosses, *, max_grad_norm: float
) -> ClippedSum:
    """See `workbench.training.clipped_gradient_sum`; one backward pass for each record."""
    parameters = trainable(model)
    gradients = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = []
    for loss in record_losses():
        record = torch.autograd.grad(
            loss,
            list(parameters.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        norm = torch.sqrt(sum((g.square().sum() for g in record), torch.zeros_like(loss)))
        norms.append(norm.detach())
        for total, gradient in zip(gradients.values(), record, strict=True):
            total += clip_factors(norm, max_grad_norm) * gradient
    return ClippedSum(gradients, torch.stack(norms))
